//! The task engine through the real binary.

use crate::support::{Service, content, eventually, refused};

const FAST: [(&str, &str); 3] =
    [("TASKS__POLL_INTERVAL", "1"), ("TASKS__FIRST_RETRY", "1"), ("TASKS__MAX_ATTEMPTS", "2")];

/// The number of the task that merges.
async fn merge_task(service: &Service) -> String {
    service.sql("SELECT id FROM tasks WHERE kind = 'merge_parts'").await.remove(0)
}

/// Completes an upload in three parts, and returns when its merge is recorded and has written something.
async fn merging(service: &Service, bytes: &[u8]) -> String {
    let uid = service.store_in_parts("x.bin", bytes, bytes.len().div_ceil(3)).await;
    eventually("the merge is running", async || {
        service.objects().iter().any(|object| object.starts_with(".tmp/")).then_some(())
    })
    .await;
    uid
}

#[tokio::test]
async fn a_failing_handler_is_tried_again_dies_visibly_and_goes_on_by_hand() {
    let mut service = Service::start_with(&FAST).await;
    service.hold_merges().await;
    let bytes = content(1, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 50_000).await;
    // The store has lost a part for a while.
    let part = service.objects_folder().join(format!("unknown/{uid}_2"));
    let hidden = service.folder().join("hidden");
    std::fs::rename(&part, &hidden).unwrap();
    service.release_merges().await;
    let id = merge_task(&service).await;
    eventually("it is dead", async || {
        (service.sql("SELECT state FROM tasks WHERE kind = 'merge_parts'").await == ["dead"]).then_some(())
    })
    .await;
    // The second attempt did not come at once: between half the delay and all of it had passed.
    let pause = "SELECT b.started_at - a.ended_at FROM task_attempts a JOIN task_attempts b ON a.task_id = b.task_id \
                 WHERE a.number = 1 AND b.number = 2 AND a.outcome = 'failed'";
    let pause: i64 = service.sql(pause).await[0].parse().unwrap();
    assert!(pause >= 500, "{pause} ms");
    eventually("the log says so", async || service.log().contains("failed for good").then_some(())).await;

    let (code, list) = service.cli(&["tasks", "ls", "--state", "dead"]).await;
    assert_eq!(code, 0);
    let line = list.lines().find(|line| line.contains(&id)).expect(&list);
    assert!(
        line.contains("merge_parts") && line.contains("dead") && line.contains("no such object"),
        "{line}"
    );
    let (code, shown) = service.cli(&["tasks", "show", &id]).await;
    assert_eq!(code, 0);
    assert!(shown.contains("attempts  2 of 2"), "{shown}");
    assert_eq!(shown.matches(": failed ").count(), 2, "{shown}");
    assert!(shown.contains(&format!("{{\"blob_id\":{uid}}}")), "{shown}");

    std::fs::rename(&hidden, &part).unwrap();
    assert!(service.read(&uid).await == bytes);
    let (code, said) = service.cli(&["tasks", "retry", &id]).await;
    assert_eq!(code, 0, "{said}");
    service.wait_until_whole(&uid).await;
    assert!(service.read(&uid).await == bytes);
    eventually("it is done", async || {
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
    let (code, said) = service.cli(&["tasks", "ls", "--data-dir", "elsewhere"]).await;
    assert_eq!(code, 1);
    assert!(said.contains("there is no database"), "{said}");
    assert!(!service.folder().join("elsewhere").exists());
}

#[tokio::test]
async fn a_task_whose_process_died_is_taken_over_by_the_next() {
    let mut service = Service::start_with(&FAST).await;
    // The first merge is killed in its middle: when its intent is recorded and it has written something.
    let bytes = content(2, 60_000_000);
    let uid = merging(&service, &bytes).await;
    service.kill().await;
    assert_eq!(service.sql("SELECT state FROM tasks WHERE kind = 'merge_parts'").await, ["running"]);
    service.restart().await;
    assert!(service.read(&uid).await == bytes);
    service.wait_until_whole(&uid).await;
    let attempts = "SELECT coalesce(outcome, '') FROM task_attempts JOIN tasks ON id = task_id \
                    WHERE kind = 'merge_parts' ORDER BY number";
    eventually("it is done", async || (service.sql(attempts).await == ["lost", "done"]).then_some(())).await;
    assert!(service.read(&uid).await == bytes);
    eventually("one object is left", async || (service.objects().len() == 1).then_some(())).await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn who_stops_finishes_what_is_running() {
    let mut service = Service::start_with(&FAST).await;
    let bytes = content(3, 60_000_000);
    let uid = merging(&service, &bytes).await;
    service.signal(rustix::process::Signal::TERM);
    assert!(service.exit_status().await.success());
    let outcome = "SELECT outcome FROM task_attempts JOIN tasks ON id = task_id WHERE kind = 'merge_parts'";
    assert_eq!(service.sql(outcome).await, ["done"]);
    assert_eq!(service.objects(), [format!("unknown/{uid}.bin")]);
}

#[tokio::test]
async fn who_must_stop_hands_back_what_is_running() {
    let mut service = Service::start_with(&[("SERVER__SHUTDOWN_GRACE", "1"), FAST[0]]).await;
    let bytes = content(4, 300_000_000);
    let uid = merging(&service, &bytes).await;
    // Two signals: at once.
    service.signal(rustix::process::Signal::TERM);
    service.signal(rustix::process::Signal::INT);
    assert!(service.exit_status().await.success());
    let outcome = "SELECT outcome FROM task_attempts JOIN tasks ON id = task_id WHERE kind = 'merge_parts'";
    assert_eq!(service.sql(outcome).await, ["handed_back"]);
    assert_eq!(service.sql("SELECT state FROM tasks WHERE kind = 'merge_parts'").await, ["queued"]);
    service.restart().await;
    service.wait_until_whole(&uid).await;
    assert!(service.read(&uid).await == bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_request_that_fails_enqueues_nothing() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"x"]).await;
    refused(service.merge(&link, 2, b"x").await, 422).await;
    assert_eq!(service.sql("SELECT count(*) FROM tasks WHERE kind = 'merge_parts'").await, ["0"]);
}
