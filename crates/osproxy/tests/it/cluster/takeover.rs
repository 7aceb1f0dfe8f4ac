//! On a shared store, another node finishes the work of a dead one.

use std::time::Instant;

use rustix::process::Signal;

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
