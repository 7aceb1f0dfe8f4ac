//! The admin listener.

use reqwest::Client;
use rustix::process::Signal;

use crate::support::{Service, eventually, spawn_failing};

#[tokio::test]
async fn the_second_listener_tells_how_it_is_and_ends_with_the_first() {
    let settings = [("ADMIN__LISTEN", "127.0.0.1:0"), ("SERVER__DRAIN_DELAY", "60")];
    let mut service = Service::start_with(&settings).await;
    let admin = service.logged_address("admin listener started").await;
    let status = async |path: &str| {
        let answer = Client::new().get(format!("http://{admin}{path}")).send().await.unwrap();
        assert!(answer.headers().contains_key("x-request-id"));
        answer.status().as_u16()
    };
    assert_eq!(status("/health/live").await, 200);
    assert_eq!(status("/health/ready").await, 200);
    // It serves nothing else.
    for path in ["/", "/api/v1/files", "/api/storage/v0/ping", "/openapi.json"] {
        assert_eq!(status(path).await, 404, "{path}");
    }
    service.signal(Signal::TERM);
    eventually("the service drains", async || (status("/health/ready").await == 503).then_some(())).await;
    assert_eq!(status("/health/live").await, 200);
    service.signal(Signal::TERM);
    assert_eq!(service.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn an_address_that_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("ADMIN__LISTEN".to_owned(), "here".to_owned())];
    let (status, _, complaint) = spawn_failing(folder.path(), &settings, &["check-config"]).await;
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("admin.listen: must be an address"), "{complaint}");
}
