//! On a shared store, another node finishes the work of a dead one, or of one that lacks a step.

use std::{path::Path, time::Instant};

use osproxy_api::v1::FileState;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Service, Store, StoreServer, content, eventually};

/// Parts arrive through all nodes; the node that merges them dies in the middle.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn the_merge_of_a_node_that_died_is_done_by_another() {
    let store = Store::new(StoreServer::S3);
    let settings = store.settings();
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    settings.extend([("CLUSTER__HEARTBEAT", "1"), ("TASKS__LEASE", "3"), ("TASKS__POLL_INTERVAL", "1")]);
    let one = Service::start_on("OSPROXY_TEST_POSTGRES", &settings).await;
    let two = one.start_second_node(&settings).await;
    let bytes = content(1, 6_000_000);
    let link = one.upload_link("x.bin").await;
    // Parts too small for the store's multipart upload are objects of their own until a task merges
    // them.
    for (number, part) in (1..).zip(bytes.chunks(40_000)) {
        let node = if number % 2 == 0 { &one } else { &two };
        assert_eq!(node.put_part(&link, number, part).await.status(), 200);
    }
    assert_eq!(one.merge(&link, 150, &bytes).await.status(), 200);
    let running = "SELECT lease_owner FROM tasks WHERE kind = 'merge_parts' AND state = 'running'";
    let owner = eventually("the merge is running", async || one.sql(running).await.pop()).await;
    let is_one = one.log().contains(&owner);
    let (mut dead, mut alive) = if is_one { (one, two) } else { (two, one) };
    // It is stopped first, so that it dies exactly where it is.
    dead.signal(Signal::STOP);
    let done = "SELECT state FROM tasks WHERE kind = 'merge_parts'";
    assert_eq!(alive.sql(done).await, ["running"], "the merge ended before the node was stopped");
    dead.kill().await;
    let died = Instant::now();
    // The file is readable all the time.
    assert!(alive.read(&link.uid).await == bytes);
    alive.wait_until_merged(&link.uid).await;
    println!("the merge is done {} ms after its node died (lease 3 s)", died.elapsed().as_millis());
    let attempts = "SELECT task_attempts.lease_owner FROM task_attempts JOIN tasks ON tasks.id = task_id WHERE kind = 'merge_parts'";
    assert_eq!(alive.sql(attempts).await.len(), 2);
    assert!(alive.read(&link.uid).await == bytes);
    alive.sql("UPDATE blobs SET created_at = 0 WHERE state = 'writing'").await;
    dead.restart().await;
    eventually("the dead node's write is removed", async || {
        alive.sql("SELECT id FROM blobs WHERE state = 'writing'").await.is_empty().then_some(())
    })
    .await;
    dead.kill().await;
    alive.assert_consistent().await;
}

const SERVERS: [&str; 2] = ["OSPROXY_TEST_POSTGRES", "OSPROXY_TEST_MYSQL"];

/// Two nodes on one database and one store. Both have a step that waits until the file `gate` exists
/// in `folder`.
async fn gated_nodes(server: &str, store: &Store, folder: &Path) -> (Service, Service) {
    let settings = store.settings();
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    settings.extend([
        ("CLUSTER__HEARTBEAT", "1"),
        ("TASKS__LEASE", "3"),
        ("TASKS__POLL_INTERVAL", "1"),
        ("TASKS__MIN_BACKOFF", "1"),
        ("TASKS__MAX_BACKOFF", "1"),
    ]);
    let script = format!(
        r#"while ! test -e {}/gate; do sleep 0.02; done; echo '{{"verdict": "accept"}}'"#,
        folder.display()
    );
    let config = json!({"processing": [{"step": "command", "command": ["/bin/sh", "-c", script]}]});
    let mut one = Service::start_on(server, &settings).await;
    let mut two = one.start_second_node(&settings).await;
    for node in [&mut one, &mut two] {
        std::fs::write(node.folder().join("config.yaml"), config.to_string()).unwrap();
        node.restart_configured().await;
    }
    (one, two)
}

async fn wait_until_stored(node: &Service, uid: &str) {
    eventually("the file is accepted", async || {
        (node.describe(uid).await.state == FileState::Stored).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn the_steps_of_a_node_that_died_are_run_by_another() {
    for server in SERVERS {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = gated_nodes(server, &Store::new(StoreServer::S3), folder.path()).await;
        let bytes = content(1, 100_000);
        let uid = one.store("x.bin", &bytes).await;
        let running = "SELECT lease_owner FROM tasks WHERE kind = 'process_file' AND state = 'running'";
        let owner = eventually("the step is running", async || one.sql(running).await.pop()).await;
        let (mut dead, mut alive) = if one.log().contains(&owner) { (one, two) } else { (two, one) };
        dead.kill().await;
        eventually("the other node runs the step", async || {
            alive.sql(running).await.pop().filter(|found| *found != owner)
        })
        .await;
        assert_eq!(alive.describe(&uid).await.state, FileState::Processing);
        std::fs::write(folder.path().join("gate"), "").unwrap();
        wait_until_stored(&alive, &uid).await;
        assert!(alive.read(&uid).await == bytes);
        let attempts = "SELECT outcome FROM task_attempts JOIN tasks ON tasks.id = task_id \
                        WHERE kind = 'process_file' ORDER BY number";
        assert_eq!(alive.sql(attempts).await, ["lost", "done"], "{server}");
        alive.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_node_without_a_step_leaves_files_to_a_node_that_has_it() {
    for server in SERVERS {
        let folder = tempfile::tempdir().unwrap();
        let (mut one, mut two) = gated_nodes(server, &Store::new(StoreServer::S3), folder.path()).await;
        // A node of a change that has not reached all nodes yet.
        let uid = one.store("x.bin", b"content").await;
        two.kill().await;
        one.kill().await;
        std::fs::write(two.folder().join("config.yaml"), "processing: [{step: type}]").unwrap();
        two.resume_configured().await;
        let refusal =
            "SELECT last_error FROM tasks WHERE kind = 'process_file' AND last_error LIKE '%(command)%'";
        eventually("the node refuses", async || two.sql(refusal).await.pop()).await;
        assert_eq!(two.describe(&uid).await.state, FileState::Processing);
        std::fs::write(folder.path().join("gate"), "").unwrap();
        one.resume_configured().await;
        wait_until_stored(&two, &uid).await;
        let done = "SELECT task_attempts.lease_owner FROM task_attempts JOIN tasks ON tasks.id = task_id \
                    WHERE kind = 'process_file' AND outcome = 'done'";
        // Only the node with the step may accept the file.
        let owner = two.sql(done).await.pop().unwrap();
        one.wait_for_log(&owner).await;
        one.kill().await;
        two.assert_consistent().await;
    }
}
