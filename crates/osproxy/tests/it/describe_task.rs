use osproxy_api::v1::{TaskDetails, TaskState};

use crate::support::{Service, content, expect_json, expect_problem};

#[tokio::test]
async fn a_task_is_told_with_its_history() {
    let service = Service::start().await;
    let uid = service.store_in_parts("x.bin", &content(1, 10_000), 5_000).await;
    service.wait_until_merged(&uid).await;
    service.database().wait_until_idle().await;
    let id = service.sql("SELECT id FROM tasks WHERE kind = 'merge_parts'").await.remove(0);
    let told: TaskDetails = expect_json(service.v1_get(&format!("/tasks/{id}")).await, 200).await;
    assert_eq!((told.task.id, told.task.state, told.history.len()), (id, TaskState::Done, 1));
    let attempt = &told.history[0];
    assert_eq!((attempt.number, attempt.outcome.as_deref()), (1, Some("done")));
    assert!(attempt.ended_at.as_ref().unwrap() >= &attempt.started_at);
}

#[tokio::test]
async fn bad_input_is_refused() {
    let service = Service::start().await;
    expect_problem(service.v1_get("/tasks/1").await, 404, "task_not_found").await;
    for id in ["x", "0", "-1", "99999999999999999999"] {
        let told =
            expect_problem(service.v1_get(&format!("/tasks/{id}")).await, 400, "invalid_argument").await;
        assert_eq!(told["field"], "id");
    }
    expect_problem(service.v1_get("/tasks/1?more=1").await, 400, "invalid_argument").await;
}
