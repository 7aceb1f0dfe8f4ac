use std::time::{Duration, Instant};

use sea_orm::ConnectionTrait;
use serde_json::json;

use crate::support::{
    FaultyProxy, HangingCalls, Service, Store, StoreServer, command, eventually, expect_v0_error,
    spawn_failing,
};

/// Status and body of `/health/ready`.
async fn ready(service: &Service) -> (u16, String) {
    let answer = service.get("/health/ready").await;
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits for this status and body.
async fn wait_until_ready(service: &Service, status: u16, text: &str) {
    let says = async || (ready(service).await == (status, text.to_owned())).then_some(());
    eventually(text, says).await;
}

const READY: &str = r#"{"status":"ready"}"#;

#[tokio::test]
async fn a_disk_that_takes_nothing_is_named_and_what_is_there_is_still_served() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"x").await;
    wait_until_ready(&service, 200, READY).await;
    service.limit_file_size(Some(0));
    // A single node stays in rotation: its files can be read. A node of a cluster with local disks
    // leaves the rotation.
    let (code, status) =
        if service.database().url().is_some() { (503, "unavailable") } else { (200, "degraded") };
    wait_until_ready(
        &service,
        code,
        &format!(r#"{{"status":"{status}","down":["disk"],"uploads":"refused"}}"#),
    )
    .await;
    assert_eq!(service.read(&uid).await, b"x");
    // `osproxy health` fails, unless only reading matters.
    let url = service.url("");
    let (refused, said) = run_health(&service, &[], &["--url", &url]).await;
    let (reads, _) = run_health(&service, &[], &["--url", &url, "--reads"]).await;
    let expected = if code == 200 { (Some(5), Some(0)) } else { (Some(1), Some(1)) };
    assert_eq!((refused, reads), expected, "{said}");
    assert!(said.contains(&format!("{status}; down: disk; uploads: refused")), "{said}");
    assert!(service.get("/").await.text().await.unwrap().contains(&format!("{status} (down: disk)")));
    service.limit_file_size(None);
    wait_until_ready(&service, 200, READY).await;
    assert_eq!(service.objects().len(), 1, "the check left an object behind");
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_named() {
    let service = Service::start().await;
    if service.database().url().is_some() {
        // For database servers, another test cuts the connection.
        return;
    }
    let other = service.lock_database().await;
    wait_until_ready(&service, 503, r#"{"status":"unavailable","down":["database"],"uploads":"refused"}"#)
        .await;
    assert_eq!(service.get("/health/live").await.text().await.unwrap(), r#"{"status":"live"}"#);
    // Metrics that do not come from the database are exported all the same.
    let start = Instant::now();
    let page = service.get("/metrics").await.text().await.unwrap();
    assert!(page.contains("osproxy_database_errors_total{operation=\"write\"} "), "{page}");
    assert!(start.elapsed().as_secs() < 15);
    other.execute_unprepared("ROLLBACK").await.unwrap();
    wait_until_ready(&service, 200, READY).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_store_that_does_not_answer_is_named() {
    let store = Store::new(StoreServer::S3);
    let proxy = FaultyProxy::start(store.address(), 1).await;
    let service = Service::start_on_store(&store, Some(&proxy), &[("STORES__TIMEOUT", "2")]).await;
    wait_until_ready(&service, 200, READY).await;
    proxy.set_silent(true);
    wait_until_ready(&service, 200, r#"{"status":"degraded","down":["store"],"uploads":"refused"}"#).await;
    proxy.set_silent(false);
    wait_until_ready(&service, 200, READY).await;
}

#[tokio::test]
async fn a_disk_without_the_room_that_must_stay_free_refuses_uploads() {
    let service = Service::start_with(&[("LOCAL__MIN_FREE_SPACE", "1125899906842624")]).await;
    let created = service.post("/link/upload", &json!({"filePath": ["x.bin"], "expire": 600})).await;
    expect_v0_error(created, 507).await;
    let (_, text) = ready(&service).await;
    assert!(text.contains(r#""down":["disk"],"uploads":"refused""#), "{text}");
}

/// The number of database transactions so far.
async fn transactions(service: &Service) -> u64 {
    let page = service.get("/metrics").await.text().await.unwrap();
    let name = "osproxy_database_operation_seconds_count{operation=\"write\"} ";
    let count = page.lines().find_map(|line| line.strip_prefix(name)).expect(&page);
    count.parse().unwrap()
}

#[tokio::test]
async fn any_number_of_probes_costs_one_look() {
    let service = Service::start_with_traffic().await;
    let before = transactions(&service).await;
    let start = Instant::now();
    let probe = async |number: usize| {
        // Each probe uses its own connection.
        let mut connection = service.connect().await;
        let route = ["/health/ready", "/", "/api/storage/v0/ping"][number % 3];
        connection.send_head("GET", route, "Connection: close\r\n").await;
        let answer = connection.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    for _ in 0..10 {
        futures_util::future::join_all((0..60).map(probe)).await;
    }
    let looks = transactions(&service).await - before;
    // One check a second, plus background work.
    assert!(looks <= 60 + 2 * start.elapsed().as_secs(), "{looks} transactions");
}

#[tokio::test]
async fn answers_to_probes_on_one_connection_are_spaced() {
    let service = Service::start().await;
    for route in ["/health/live", "/health/ready", "/api/storage/v0/health", "/api/storage/v0/ping", "/"] {
        let mut connection = service.connect().await;
        let start = Instant::now();
        for _ in 0..2 {
            connection.send_head("GET", route, "").await;
            connection.read_some().await;
        }
        connection.send_head("GET", route, "Connection: close\r\n").await;
        connection.read_to_end().await;
        assert!(start.elapsed() >= Duration::from_millis(200), "{route}");
    }
}

#[tokio::test]
async fn a_disk_that_hangs_is_named_and_hangs_one_thread() {
    let service = Service::start().await;
    wait_until_ready(&service, 200, READY).await;
    let hang = HangingCalls::on_open(&service, "osproxy-data").await;
    let (code, status) =
        if service.database().url().is_some() { (503, "unavailable") } else { (200, "degraded") };
    wait_until_ready(
        &service,
        code,
        &format!(r#"{{"status":"{status}","down":["disk"],"uploads":"refused"}}"#),
    )
    .await;
    // Twice as long as a result for disks is cached.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(11) {
        assert!(ready(&service).await.1.contains("disk"));
        service.get("/metrics").await;
    }
    assert_eq!(hang.count_threads().await, 1);
    service.store("x.bin", b"x").await;
    hang.release().await;
    wait_until_ready(&service, 200, READY).await;
}

/// Runs `osproxy health`; returns its exit code and output.
pub async fn run_health(
    service: &Service,
    settings: &[(&str, &str)],
    options: &[&str],
) -> (Option<i32>, String) {
    let settings: Vec<_> =
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let arguments = [&["health"], options].concat();
    let (status, said, complaint) = spawn_failing(service.folder(), &settings, &arguments).await;
    (status.code(), said + &complaint)
}

#[tokio::test]
async fn the_verb_asks_the_node_that_the_configuration_describes() {
    let mut service = Service::start().await;
    let (url, port) = (service.url(""), service.address.port());
    let (own, any) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
    let ready = (Some(0), "ready\n".to_owned());
    assert_eq!(run_health(&service, &[], &["--url", &url]).await, ready);
    assert_eq!(run_health(&service, &[("SERVER__LISTEN", &own)], &[]).await, ready);
    let open = [("SERVER__LISTEN", &*any), ("AUTH__MODE", "open")];
    assert_eq!(run_health(&service, &open, &[]).await, ready);
    assert_eq!(run_health(&service, &[], &["--listen", &own]).await, ready);
    let port = port.to_string();
    assert_eq!(run_health(&service, &[("APP__PORT", &port)], &[]).await, ready);
    // A configuration file named by an environment variable.
    std::fs::write(service.folder().join("its.yaml"), format!("server: {{listen: '{own}'}}")).unwrap();
    let mut named = command(service.folder(), &[], &[]);
    assert!(named.arg("health").env("OSPROXY_CONFIG", "its.yaml").status().await.unwrap().success());
    service.kill().await;
    let (code, said) = run_health(&service, &[], &["--url", &url]).await;
    assert!(code == Some(1) && said.contains(&format!("{url} does not answer")), "{said}");
}

#[tokio::test]
async fn the_verb_says_what_is_down_and_who_is_none() {
    let service = Service::start_with(&[("SERVER__DRAIN_DELAY", "30")]).await;
    let url = service.url("");
    service.signal(rustix::process::Signal::TERM);
    let said = async || {
        let (code, said) = run_health(&service, &[], &["--url", &url]).await;
        (code == Some(1)).then_some(said)
    };
    let said = eventually("the service drains", said).await;
    assert!(said.contains("is not ready: draining"), "{said}");
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut client, _) = other.accept().unwrap();
        let _ = client.read(&mut [0; 1000]);
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let (code, said) = run_health(&service, &[], &["--url", &url]).await;
    assert!(code == Some(1) && said.contains("does not seem to be osproxy"), "{said}");
}
