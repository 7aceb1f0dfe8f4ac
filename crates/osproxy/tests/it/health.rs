use std::time::Instant;

use sea_orm::{ConnectOptions, ConnectionTrait};

use crate::support::{Service, Store, StoreServer, Unreliable, connect, eventually};

/// What `/health/ready` answers.
async fn ready(service: &Service) -> (u16, String) {
    let answer = service.get("/health/ready").await;
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits until it answers that.
async fn until_ready(service: &Service, status: u16, text: &str) {
    let says = async || (ready(service).await == (status, text.to_owned())).then_some(());
    eventually(text, says).await;
}

const READY: &str = r#"{"status":"ready"}"#;

#[tokio::test]
async fn a_disk_that_takes_nothing_is_named_and_what_is_there_is_still_served() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"x").await;
    until_ready(&service, 200, READY).await;
    service.limit_files(Some(0));
    // Alone, it is better than nothing: what is there can be read. Others with disks of their own do without it.
    let (code, status) =
        if service.database().url().is_some() { (503, "unavailable") } else { (200, "degraded") };
    until_ready(&service, code, &format!(r#"{{"status":"{status}","down":["disk"]}}"#)).await;
    assert_eq!(service.read(&uid).await, b"x");
    assert!(service.get("/").await.text().await.unwrap().contains(&format!("{status} (down: disk)")));
    service.limit_files(None);
    until_ready(&service, 200, READY).await;
    assert_eq!(service.objects().len(), 1, "finding out leaves nothing behind");
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_named() {
    let service = Service::start().await;
    if service.database().url().is_some() {
        // Of one on a server another test makes sure, which can cut the line.
        return;
    }
    let path = service.folder().join("osproxy-data/osproxy.db");
    let mut options = ConnectOptions::new(format!("sqlite://{}", path.display()));
    options.max_connections(1);
    let other = connect(options).await;
    other.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
    until_ready(&service, 503, r#"{"status":"unavailable","down":["database"]}"#).await;
    assert_eq!(service.get("/health/live").await.text().await.unwrap(), r#"{"status":"live"}"#);
    // What does not need the database is told all the same.
    let start = Instant::now();
    let page = service.get("/metrics").await.text().await.unwrap();
    assert!(page.contains("osproxy_database_errors_total{operation=\"write\"} "), "{page}");
    assert!(start.elapsed().as_secs() < 15);
    other.execute_unprepared("ROLLBACK").await.unwrap();
    until_ready(&service, 200, READY).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_store_that_does_not_answer_is_named() {
    let store = Store::new(StoreServer::S3);
    let proxy = Unreliable::start(store.address(), 1).await;
    let service = Service::start_on_store(&store, Some(&proxy), &[("STORES__TIMEOUT", "2")]).await;
    until_ready(&service, 200, READY).await;
    proxy.silence(true);
    until_ready(&service, 200, r#"{"status":"degraded","down":["store"]}"#).await;
    proxy.silence(false);
    until_ready(&service, 200, READY).await;
}
