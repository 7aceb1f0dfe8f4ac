use osproxy_api::v0::Envelope;

use crate::support::{Service, expect_problem, expect_v0_error};

#[tokio::test]
async fn ping_and_health_answer() {
    let service = Service::start().await;
    for route in ["ping", "health"] {
        let answer = service.get(&format!("/api/storage/v0/{route}")).await;
        assert_eq!(answer.status(), 200);
        let envelope: Envelope<String> = answer.json().await.unwrap();
        assert_eq!((envelope.code, envelope.message.as_str()), (0, "ok"));
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_in_the_envelope_under_v0_and_as_a_problem_elsewhere() {
    let service = Service::start().await;
    expect_problem(service.get("/nothing").await, 404, "unknown_route").await;
    expect_problem(service.get("/api/storage/v0x").await, 404, "unknown_route").await;
    expect_v0_error(service.get("/api/storage/v0/nothing").await, 404).await;
    let answer = service.client().delete(service.url("/api/storage/v0/ping")).send().await.unwrap();
    assert_eq!(answer.headers()["allow"], "GET,HEAD");
    expect_v0_error(answer, 405).await;
}
