//! The task engine through the real binary.

use crate::support::{Service, content, eventually, expect_v0_error};

const FAST: [(&str, &str); 3] =
    [("TASKS__POLL_INTERVAL", "1"), ("TASKS__MIN_BACKOFF", "1"), ("TASKS__MAX_ATTEMPTS", "2")];

/// The id of the merge task.
async fn merge_task(service: &Service) -> String {
    service.sql("SELECT id FROM tasks WHERE kind = 'merge_parts'").await.remove(0)
}

/// Completes an upload in three parts, and returns when its merge has written something. The parts
/// have different sizes: otherwise, they need not be merged.
async fn start_merge(service: &Service, bytes: &[u8]) -> String {
    let link = service.upload_link("x.bin").await;
    let (first, others) = bytes.split_at(bytes.len() / 4);
    let (second, third) = others.split_at(bytes.len() / 3);
    service.put_parts(&link, &[first, second, third]).await;
    assert_eq!(service.merge(&link, 3, bytes).await.status(), 200);
    let uid = link.uid;
    eventually("the merge is running", async || {
        service.objects().iter().any(|object| object.starts_with(".tmp/")).then_some(())
    })
    .await;
    uid
}

#[tokio::test]
async fn a_failing_handler_is_tried_again_dies_visibly_and_goes_on_by_hand() {
    let mut service = Service::start_with(&FAST).await;
    service.database().hold_merges().await;
    let bytes = content(1, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 50_000).await;
    // A part is missing for a while.
    let part = service.object_path(format!("unknown/{uid}_2"));
    let hidden = service.folder().join("hidden");
    std::fs::rename(&part, &hidden).unwrap();
    service.database().release_merges().await;
    let id = merge_task(&service).await;
    eventually("the task is dead", async || {
        (service.sql("SELECT state FROM tasks WHERE kind = 'merge_parts'").await == ["dead"]).then_some(())
    })
    .await;
    // The second attempt waited for the backoff: between half the delay and all of it.
    let pause = "SELECT b.started_at - a.ended_at FROM task_attempts a JOIN task_attempts b ON a.task_id = b.task_id \
                 WHERE a.number = 1 AND b.number = 2 AND a.outcome = 'failed'";
    let pause: i64 = service.sql(pause).await[0].parse().unwrap();
    assert!(pause >= 500, "{pause} ms");
    service.wait_for_log("is dead; see").await;

    let (code, list) = service.cli(&["tasks", "ls", "--state", "dead"]).await;
    assert_eq!(code, 0);
    let line = list.lines().find(|line| line.contains(&id)).expect(&list);
    assert!(line.contains("merge_parts") && line.contains("dead") && line.contains("not found"), "{line}");
    let (code, shown) = service.cli(&["tasks", "show", &id]).await;
    assert_eq!(code, 0);
    assert!(shown.contains("attempts  2 of 2"), "{shown}");
    assert_eq!(shown.matches(": failed ").count(), 2, "{shown}");
    assert!(shown.contains(&format!("{{\"blob_id\":{uid}}}")), "{shown}");

    std::fs::rename(&hidden, &part).unwrap();
    assert!(service.read(&uid).await == bytes);
    let (code, said) = service.cli(&["tasks", "retry", &id]).await;
    assert_eq!(code, 0, "{said}");
    service.wait_until_merged(&uid).await;
    assert!(service.read(&uid).await == bytes);
    eventually("the task is done", async || {
        (service.sql("SELECT state FROM tasks WHERE kind = 'merge_parts'").await == ["done"]).then_some(())
    })
    .await;
    let (code, said) = service.cli(&["tasks", "retry", &id]).await;
    assert_eq!(code, 1);
    assert!(said.contains("is done"), "{said}");
    service.assert_consistent().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_of_tasks_is_told() {
    let service = Service::start().await;
    for arguments in [["show", "1"], ["retry", "1"]] {
        let (code, said) = service.cli(&[&["tasks"], &arguments[..]].concat()).await;
        assert_eq!((code, said.as_str()), (1, "osproxy: there is no task 1\n"));
    }
    // With a database on a server, the data folder does not matter.
    if service.database().url().is_none() {
        let (code, said) = service.cli(&["tasks", "ls", "--data-dir", "elsewhere"]).await;
        assert_eq!(code, 1);
        assert!(said.contains("there is no database"), "{said}");
        assert!(!service.folder().join("elsewhere").exists());
    }
    for limit in ["0", "18446744073709551615"] {
        assert_eq!(service.cli(&["tasks", "ls", "--limit", limit]).await.0, 2);
    }
    // Commands that only read do not migrate the tables of a running service.
    service.sql("DELETE FROM seaql_migrations WHERE version LIKE 'm0002%'").await;
    let (code, said) = service.cli(&["tasks", "ls"]).await;
    assert_eq!(code, 1);
    assert!(said.contains("schema is older than this version"), "{said}");
}

#[tokio::test]
async fn a_task_whose_process_died_is_taken_over_by_the_next() {
    let mut service = Service::start_with(&FAST).await;
    // The first merge is killed in the middle: its write intent is committed and it has written
    // something.
    let bytes = content(2, 60_000_000);
    let uid = start_merge(&service, &bytes).await;
    service.kill().await;
    assert_eq!(service.sql("SELECT state FROM tasks WHERE kind = 'merge_parts'").await, ["running"]);
    service.restart().await;
    assert!(service.read(&uid).await == bytes);
    service.wait_until_merged(&uid).await;
    let attempts = "SELECT coalesce(outcome, '') FROM task_attempts JOIN tasks ON id = task_id \
                    WHERE kind = 'merge_parts' ORDER BY number";
    eventually("it is done", async || (service.sql(attempts).await == ["lost", "done"]).then_some(())).await;
    assert!(service.read(&uid).await == bytes);
    eventually("one object remains", async || (service.objects().len() == 1).then_some(())).await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn who_stops_finishes_what_is_running() {
    let mut service = Service::start_with(&FAST).await;
    let bytes = content(3, 60_000_000);
    let uid = start_merge(&service, &bytes).await;
    service.signal(rustix::process::Signal::TERM);
    assert!(service.exit_status().await.success());
    let outcome = "SELECT outcome FROM task_attempts JOIN tasks ON id = task_id WHERE kind = 'merge_parts'";
    assert_eq!(service.sql(outcome).await, ["done"]);
    assert_eq!(service.objects().len(), 1);
    service.restart().await;
    assert!(service.read(&uid).await == bytes);
}

#[tokio::test]
async fn who_must_stop_hands_back_what_is_running() {
    let mut service = Service::start_with(&[("SERVER__SHUTDOWN_GRACE", "1"), FAST[0]]).await;
    let bytes = content(4, 300_000_000);
    let uid = start_merge(&service, &bytes).await;
    // A second signal ends the process at once.
    service.signal(rustix::process::Signal::TERM);
    service.signal(rustix::process::Signal::INT);
    assert!(service.exit_status().await.success());
    let outcome = "SELECT outcome FROM task_attempts JOIN tasks ON id = task_id WHERE kind = 'merge_parts'";
    assert_eq!(service.sql(outcome).await, ["handed_back"]);
    assert_eq!(service.sql("SELECT state FROM tasks WHERE kind = 'merge_parts'").await, ["queued"]);
    service.restart().await;
    service.wait_until_merged(&uid).await;
    assert!(service.read(&uid).await == bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_task_that_cannot_be_claimed_does_not_keep_the_others() {
    let service = Service::start_with(&FAST).await;
    service.database().hold_merges().await;
    let one = service.store_in_parts("x.bin", b"abc", 2).await;
    let two = service.store_in_parts("y.bin", b"defg", 2).await;
    let begun = format!("NEW.state = 'running' AND NEW.payload LIKE '%{one}%'");
    service.database().reject_changes("poisoned", "BEFORE UPDATE", "tasks", &begun).await;
    service.database().release_merges().await;
    service.wait_until_merged(&two).await;
    assert_eq!(service.read(&one).await, b"abc");
}

/// Without polling, completing an upload must notify the task engine.
#[tokio::test]
async fn a_merge_is_begun_at_once() {
    let service = Service::start_with(&[("TASKS__POLL_INTERVAL", "3600")]).await;
    for round in 0..3 {
        let uid = service.store_in_parts("x.bin", &content(round, 10_000), 4_000).await;
        service.wait_until_merged(&uid).await;
        // A file with the same content shares it; another task deletes what it had written.
        let again = service.store_in_parts("y.bin", &content(round, 10_000), 5_000).await;
        service.wait_until_merged(&again).await;
        let blobs = "SELECT count(*) FROM blobs";
        eventually("the second blob is removed", async || {
            (service.sql(blobs).await == [(round + 1).to_string()]).then_some(())
        })
        .await;
    }
}

/// Runs a sweep from start to end.
async fn sweep(service: &Service) {
    let ended = "SELECT count(*) FROM task_attempts JOIN tasks ON id = task_id WHERE kind = 'sweep' AND outcome = 'done'";
    eventually("the first sweep has ended", async || (service.sql(ended).await == ["1"]).then_some(())).await;
    let id = service.sql("SELECT id FROM tasks WHERE kind = 'sweep'").await.remove(0);
    assert_eq!(service.cli(&["tasks", "retry", &id]).await.0, 0);
    eventually("another has ended", async || (service.sql(ended).await == ["2"]).then_some(())).await;
}

#[tokio::test]
async fn what_is_being_written_is_not_swept() {
    let mut service = Service::start_with(&FAST).await;
    let link = service.upload_link("x.bin").await;
    let mut slow = service.connect().await;
    slow.send_head("PUT", &link.url.single, "Content-Length: 4\r\n").await;
    let mut part = service.connect().await;
    let other = service.upload_link("y.bin").await;
    part.send_head("PUT", &format!("{}&chunkNum=1", other.url.multi.upload), "Content-Length: 4\r\n").await;
    let begun =
        "SELECT id FROM blobs WHERE state = 'writing' UNION ALL SELECT id FROM parts WHERE state = 'writing'";
    eventually("both have started", async || (service.sql(begun).await.len() == 2).then_some(())).await;
    // A second write for the same uid that breaks off removes nothing of the first one.
    let mut second = service.connect().await;
    second.send_head("PUT", &link.url.single, "Content-Length: 4\r\n").await;
    eventually("it has started", async || (service.sql(begun).await.len() == 3).then_some(())).await;
    drop(second);
    eventually("it is removed", async || (service.sql(begun).await.len() == 2).then_some(())).await;
    // As if these writes had begun long ago; a third row really is that old, and its process is
    // dead.
    service.sql("UPDATE blobs SET created_at = 0").await;
    service.sql("UPDATE parts SET created_at = 0").await;
    let blob = "INSERT INTO blobs (id, tenant, state, layout, backend, object_key, refs, size, created_at)";
    service
        .sql(&format!("{blob} VALUES (1, 'default', 'writing', 'whole', 'local', 'unknown/1', 0, 0, 0)"))
        .await;
    // A write of another node that has just begun.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    service
        .sql(&format!("{blob} VALUES (2, 'default', 'writing', 'whole', 'local', 'unknown/2', 0, 0, {now})"))
        .await;
    sweep(&service).await;
    assert_eq!(service.sql("SELECT id FROM blobs WHERE id IN (1, 2)").await, ["2"]);
    service.sql("DELETE FROM blobs WHERE id = 2").await;
    for connection in [&mut slow, &mut part] {
        connection.send(b"slow").await;
        let answer = String::from_utf8(connection.read_some().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(service.read(&link.uid).await, b"slow");
    assert_eq!(service.checkpoint(&other.uid).await, [1]);
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_request_that_fails_enqueues_nothing() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"x"]).await;
    expect_v0_error(service.merge(&link, 2, b"x").await, 422).await;
    assert_eq!(service.sql("SELECT count(*) FROM tasks WHERE kind = 'merge_parts'").await, ["0"]);
}

#[tokio::test]
async fn a_command_that_fails_says_why_once() {
    let mut service = Service::start().await;
    service.kill().await;
    for table in ["task_attempts", "tasks"] {
        service.database().unchecked_sql(&format!("DROP TABLE {table}")).await;
    }
    let (code, said) = service.cli(&["tasks", "ls"]).await;
    assert_eq!(code, 1, "{said}");
    let why = if service.database().url().is_none() { "no such table" } else { "tasks" };
    assert_eq!(said.matches(why).count(), 1, "{said}");
}
