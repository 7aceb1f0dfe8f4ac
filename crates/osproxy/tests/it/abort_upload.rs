use reqwest::Method;
use serde_json::json;

use crate::support::{Service, content, expect_json, expect_problem};

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing_and_takes_nothing() {
    let service = Service::start().await;
    let bytes = content(1, 200_000);
    for wish in [json!({"name": "x.bin", "size": bytes.len(), "part_size": 65536}), json!({"name": "x.bin"})]
    {
        let upload: osproxy_api::v1::CreatedUpload =
            expect_json(service.v1_post("/uploads", &wish).await, 201).await;
        let links = upload.links.unwrap();
        let part = links.part.replace("{number}", "1");
        assert_eq!(service.put(&part, &bytes[..65536]).await.status(), 204);
        let state = links.state.strip_prefix("/api/v1").unwrap();
        assert_eq!(service.v1(Method::DELETE, state, None).await.status(), 204);
        expect_problem(service.v1(Method::DELETE, state, None).await, 410, "file_gone").await;
        expect_problem(service.put(&part, &bytes[..65536]).await, 410, "file_gone").await;
        expect_problem(service.put(&links.content, &bytes).await, 410, "file_gone").await;
        expect_problem(service.get(&links.state).await, 410, "file_gone").await;
        service.database().wait_until_idle().await;
        assert_eq!(service.objects(), [""; 0]);
        assert_eq!(service.sql("SELECT count(*) FROM parts").await, ["0"]);
    }
}

#[tokio::test]
async fn what_is_complete_is_not_given_up() {
    let service = Service::start().await;
    let upload: osproxy_api::v1::CreatedUpload =
        expect_json(service.v1_post("/uploads", &json!({"name": "x.bin"})).await, 201).await;
    let links = upload.links.unwrap();
    assert_eq!(service.put(&links.content, b"kept").await.status(), 200);
    let state = links.state.strip_prefix("/api/v1").unwrap();
    expect_problem(service.v1(Method::DELETE, state, None).await, 409, "already_stored").await;
    assert_eq!(service.read(&upload.uid).await, b"kept");
}
