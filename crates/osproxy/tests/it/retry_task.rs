use osproxy_api::v1::{Task, TaskDetails, TaskState};
use reqwest::Method;
use serde_json::json;

use crate::support::{Service, content, eventually, expect_json, expect_problem};

#[tokio::test]
async fn a_dead_task_goes_on() {
    let fast = [("TASKS__POLL_INTERVAL", "1"), ("TASKS__MIN_BACKOFF", "1"), ("TASKS__MAX_ATTEMPTS", "1")];
    let service = Service::start_with(&fast).await;
    service.database().hold_merges().await;
    let bytes = content(1, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 50_000).await;
    let part = service.object_path(format!("unknown/{uid}_2"));
    let hidden = service.folder().join("hidden");
    std::fs::rename(&part, &hidden).unwrap();
    let id = service.sql("SELECT id FROM tasks WHERE kind = 'merge_parts'").await.remove(0);
    let (route, retry) = (format!("/tasks/{id}"), format!("/tasks/{id}/retry"));
    let told = expect_problem(service.v1(Method::POST, &retry, None).await, 409, "task_not_dead").await;
    assert!(told["detail"].as_str().unwrap().contains("queued"), "{told}");
    service.database().release_merges().await;
    eventually("the task is dead", async || {
        let told: TaskDetails = expect_json(service.v1_get(&route).await, 200).await;
        (told.task.state == TaskState::Dead).then_some(())
    })
    .await;
    std::fs::rename(&hidden, &part).unwrap();
    expect_problem(service.v1(Method::POST, &retry, Some(&json!({}))).await, 400, "invalid_argument").await;
    let task: Task = expect_json(service.v1(Method::POST, &retry, None).await, 200).await;
    assert_eq!(task.id, id);
    service.wait_until_merged(&uid).await;
    assert!(service.read(&uid).await == bytes);
    eventually("the task is done", async || {
        let told: TaskDetails = expect_json(service.v1_get(&route).await, 200).await;
        (told.task.state == TaskState::Done && told.history.len() == 2).then_some(())
    })
    .await;
    let told = expect_problem(service.v1(Method::POST, &retry, None).await, 409, "task_not_dead").await;
    assert!(told["detail"].as_str().unwrap().contains("done"), "{told}");
}

#[tokio::test]
async fn bad_input_is_refused() {
    let service = Service::start().await;
    expect_problem(service.v1(Method::POST, "/tasks/1/retry", None).await, 404, "task_not_found").await;
    expect_problem(service.v1(Method::POST, "/tasks/x/retry", None).await, 400, "invalid_argument").await;
    expect_problem(service.v1_get("/tasks/1/retry").await, 405, "method_not_allowed").await;
}
