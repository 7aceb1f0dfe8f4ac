use osproxy_api::v1::Stats;
use reqwest::Method;

use crate::support::{Service, content, eventually, expect_json, expect_problem};

async fn stats(service: &Service) -> Stats {
    expect_json(service.v1_get("/stats").await, 200).await
}

#[tokio::test]
async fn what_there_is_is_counted() {
    let mut service = Service::start().await;
    let bytes = content(1, 10_000);
    for name in ["x.bin", "y.bin", "z.bin"] {
        service.store(name, &bytes).await;
    }
    service.store("empty.bin", b"").await;
    service.upload_link("pending.bin").await;
    let gone = service.store("gone.bin", &bytes).await;
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{gone}"), None).await.status(), 204);
    let begun = async || (service.sql("SELECT count(*) FROM tasks").await[0] != "0").then_some(());
    eventually("there are tasks", begun).await;
    let counted = stats(&service).await;
    let files: Vec<_> = counted.files.iter().map(|(state, count)| (state.as_str(), *count)).collect();
    assert_eq!(files, [("deleted", 1), ("pending", 1), ("stored", 4)]);
    assert_eq!((counted.blobs, counted.bytes_stored, counted.bytes_saved), (2, 10_000, 20_000));
    assert!(counted.tasks.values().sum::<u64>() > 0, "{counted:?}");
    // Statistics are cached: a second request right after the first gets the same.
    service.store("more.bin", b"more").await;
    assert_eq!(stats(&service).await, counted);
    service.kill_and_restart().await;
    assert_eq!(stats(&service).await.blobs, 3);
    expect_problem(service.v1_get("/stats?fresh=1").await, 400, "invalid_argument").await;
}

#[tokio::test]
async fn nothing_is_counted_too() {
    let service = Service::start().await;
    let counted = stats(&service).await;
    assert!(counted.files.is_empty());
    assert_eq!((counted.blobs, counted.bytes_stored, counted.bytes_saved), (0, 0, 0));
}
