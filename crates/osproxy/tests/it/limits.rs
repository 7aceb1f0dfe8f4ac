//! Concurrency limits: requests beyond a limit are refused at once, and the service recovers
//! afterwards.

use std::time::Duration;

use osproxy_api::v1::CreatedLink;
use reqwest::Response;
use sea_orm::ConnectionTrait;
use serde_json::json;
use tokio::time::timeout;

use crate::support::{
    Api, RawConnection, Service, content, eventually, expect_json, expect_problem, expect_v0_error,
};

/// Starts an upload and stops in the middle.
async fn start_upload(api: &Api, service: &Service) -> RawConnection {
    let link = api.upload_link("x.bin").await;
    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single, "Content-Length: 1000\r\n").await;
    connection.send(&[7; 500]).await;
    connection
}

/// Sends the rest, and returns the status of the answer.
async fn finish_upload(mut connection: RawConnection) -> String {
    connection.send(&[7; 500]).await;
    String::from_utf8(connection.read_some().await).unwrap()[9..12].to_owned()
}

async fn uploads(service: &Service, count: u64) {
    let sample = format!(r#"osproxy_transfers_in_flight{{direction="upload"}} {count}.0"#);
    eventually("the transfers have started", async || {
        let page = service.get("/metrics").await.text().await.unwrap();
        page.lines().any(|line| line == sample).then_some(())
    })
    .await;
}

/// Sends half of a request for an upload link, which then occupies its permit.
async fn start_request(service: &Service) -> RawConnection {
    let mut connection = service.connect().await;
    let fields = "Content-Type: application/json\r\nContent-Length: 35\r\nExpect: 100-continue\r\n";
    connection.send_head("POST", "/api/storage/v0/link/upload", &(service.authorization() + fields)).await;
    // It has its permit once its body is requested.
    assert!(connection.read_some().await.starts_with(b"HTTP/1.1 100"));
    connection.send(br#"{"filePath": ["a"],"#).await;
    connection
}

/// Sends the other half, which is answered.
async fn finish_request(mut connection: RawConnection) {
    connection.send(br#" "expire": 600} "#).await;
    assert!(connection.read_some().await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn requests_beyond_those_worked_on_are_refused_at_once_and_health_is_not() {
    let service = Service::start_with(&[("LIMITS__MAX_REQUESTS", "1")]).await;
    let slow = start_request(&service).await;
    let answer = service.get("/api/storage/v0/ping").await;
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.headers()["osproxy-error"], "overloaded");
    expect_v0_error(answer, 503).await;
    expect_problem(service.v1_get("/files").await, 503, "overloaded").await;
    expect_problem(service.get("/f/1/x").await, 503, "overloaded").await;
    for path in ["/health/live", "/health/ready", "/api/storage/v0/health", "/metrics"] {
        assert_eq!(service.get(path).await.status(), 200, "{path}");
    }
    finish_request(slow).await;
    assert_eq!(service.get("/api/storage/v0/ping").await.status(), 200);
    assert!(!service.log().contains("ERROR"), "{}", service.log());
}

#[tokio::test]
async fn requests_that_change_something_leave_half_the_places_to_those_that_read() {
    let service = Service::start_with(&[("LIMITS__MAX_REQUESTS", "4")]).await;
    let slow = [start_request(&service).await, start_request(&service).await];
    let link = json!({"filePath": ["x.bin"], "expire": 600});
    expect_v0_error(service.post("/link/upload", &link).await, 503).await;
    expect_problem(service.v1_post("/uploads", &json!({"name": "x.bin"})).await, 503, "overloaded").await;
    for _ in 0..3 {
        assert_eq!(service.get("/api/storage/v0/ping").await.status(), 200);
        assert_eq!(service.v1_get("/files").await.status(), 200);
    }
    for half in slow {
        finish_request(half).await;
    }
    assert_eq!(service.post("/link/upload", &link).await.status(), 200);
}

#[tokio::test]
async fn transfers_beyond_those_taken_on_are_refused_and_all_else_goes_on() {
    let service = Service::start_with(&[("LIMITS__MAX_TRANSFERS", "2")]).await;
    let stored = service.store("x.bin", &content(1, 100)).await;
    let halves = [start_upload(&service, &service).await, start_upload(&service, &service).await];
    uploads(&service, 2).await;
    let link = service.upload_link("y.bin").await;
    expect_v0_error(service.put(&link.url.single, b"third").await, 503).await;
    expect_v0_error(service.put_part(&link, 1, b"third").await, 503).await;
    let download = service.download_link(&stored).await.unwrap();
    expect_v0_error(service.get(&download.url).await, 503).await;
    assert_eq!(service.checkpoint(&link.uid).await, [0_u32; 0], "a refused part was stored");
    for half in halves {
        assert_eq!(finish_upload(half).await, "200");
    }
    assert_eq!(service.put(&link.url.single, b"third").await.status(), 200);
    assert_eq!(service.get(&download.url).await.status(), 200);
    // An aborted upload releases its permit too.
    for _ in 0..5 {
        drop(start_upload(&service, &service).await);
    }
    uploads(&service, 0).await;
    service.store("x.bin", &content(2, 100)).await;
}

#[tokio::test]
async fn what_would_only_wait_is_refused_before_it_begins() {
    let service = Service::start_with(&[("LIMITS__MAX_PENDING_WRITES", "2")]).await;
    let body = json!({"filePath": ["x.bin"], "expire": 600});
    let other = service.lock_database().await;
    // These wait for the database, even when their client has given up.
    let mut waiting = 0;
    let refused = async || {
        let answer = timeout(Duration::from_millis(500), service.post("/link/upload", &body)).await;
        let answer = answer.ok().filter(|answer| answer.headers()["osproxy-error"] == "overloaded");
        waiting += usize::from(answer.is_none());
        answer
    };
    let first = eventually("an upload is refused", refused).await;
    expect_v0_error(first, 503).await;
    // A write of the service itself may wait too, and counts.
    assert!(waiting >= 1, "refused while {waiting} were waiting");
    for _ in 0..5 {
        let answer = service.post("/link/upload", &body).await;
        assert_eq!(answer.headers()["osproxy-error"], "overloaded");
        expect_v0_error(answer, 503).await;
    }
    other.execute_unprepared("ROLLBACK").await.unwrap();
    let granted = async || (service.post("/link/upload", &body).await.status() == 200).then_some(());
    eventually("an upload is granted", granted).await;
    let files = service.sql("SELECT uid FROM files").await.len();
    assert!(files <= waiting + 1, "a refused upload left one of {files} files");
    let uid = service.store("x.bin", b"later").await;
    assert_eq!(service.read(&uid).await, b"later");
}

#[tokio::test]
async fn one_tenant_does_not_take_the_transfers_of_all() {
    let service = Service::start_with(&[("LIMITS__MAX_TENANT_TRANSFERS", "1")]).await;
    let ours = service.with_key(&service.create_key(&["--tenant", "ours"]).await);
    let theirs = service.with_key(&service.create_key(&["--tenant", "theirs"]).await);
    let half = start_upload(&ours, &service).await;
    uploads(&service, 1).await;
    let link = ours.upload_link("y.bin").await;
    expect_v0_error(ours.put(&link.url.single, b"second").await, 503).await;
    expect_v0_error(ours.put_part(&link, 1, b"second").await, 503).await;
    theirs.store("x.bin", b"theirs").await;
    assert_eq!(finish_upload(half).await, "200");
    eventually("its permit is released", async || {
        (ours.put(&link.url.single, b"second").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_key_does_not_take_the_transfers_of_its_tenant() {
    let service = Service::start().await;
    let busy = service.with_key(&service.create_key(&["--transfers", "1"]).await);
    let other = service.with_key(&service.create_key(&[]).await);
    let stored = other.store("x.bin", &content(1, 100)).await;
    let half = start_upload(&busy, &service).await;
    uploads(&service, 1).await;
    let (old, new) = (busy.upload_link("y.bin").await, busy.create_upload(&json!({"name": "z.bin"})).await);
    expect_v0_error(busy.put(&old.url.single, b"second").await, 503).await;
    let content = &new.links.as_ref().unwrap().content;
    expect_problem(busy.put(content, b"second").await, 503, "overloaded").await;
    let download = busy.download_link(&stored).await.unwrap();
    expect_v0_error(service.get(&download.url).await, 503).await;
    let link: CreatedLink =
        expect_json(busy.v1_post(&format!("/files/{stored}/links"), &json!({"expires_in": 60})).await, 201)
            .await;
    expect_problem(service.get(&link.url).await, 503, "overloaded").await;
    assert_eq!(other.read(&stored).await.len(), 100);
    assert_eq!(finish_upload(half).await, "200");
    eventually("its permit is released", async || {
        (busy.put(&old.url.single, b"second").await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(service.get(&download.url).await.status(), 200);
    assert_eq!(service.get(&link.url).await.status(), 200);
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_again() {
    let service = Service::start_configured(
        "{limits: {max_address_rate: 5}, server: {trusted_proxies: [127.0.0.1]}, auth: {mode: open}}",
    )
    .await;
    let ask = async |address: &str| {
        let request = service.client().get(service.url("/api/v1/files")).header("x-forwarded-for", address);
        request.send().await.unwrap()
    };
    let too_many = async |address: &str| -> (usize, Option<Response>) {
        let (mut served, mut last) = (0, None);
        for _ in 0..50 {
            let answer = ask(address).await;
            if answer.status() == 200 {
                served += 1;
            } else {
                last = Some(answer);
            }
        }
        (served, last)
    };
    let (served, last) = too_many("192.0.2.1").await;
    assert!((5..50).contains(&served), "{served}");
    let last = last.unwrap();
    assert_eq!(last.headers()["retry-after"], "1");
    expect_problem(last, 429, "rate_limited").await;
    // An IPv6 /64 network counts as one client; other networks are separate.
    assert_eq!(ask("192.0.2.2").await.status(), 200);
    let mut is_refused = false;
    // Alone, an address could send five requests at once. A request may be allowed again in the
    // moment after the others were refused.
    for _ in 0..4 {
        assert!(too_many("2001:db8::1").await.1.is_some());
        is_refused |= ask("2001:db8::2").await.status() == 429;
    }
    assert!(is_refused);
    assert_eq!(ask("2001:db8:1::1").await.status(), 200);
    assert_eq!(service.get("/health/ready").await.status(), 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ask("192.0.2.1").await.status(), 200);
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_uploads_and_reads_go_on() {
    const MIB: usize = 1 << 20;
    let settings = [("LOCAL__ROOT", "disk/objects"), ("LOCAL__MIN_FREE_SPACE", "33554432")];
    let service = Service::start_on_small_disk(64 << 20, &settings).await;
    let bytes = content(1, 16 * MIB);
    let uid = service.store("x.bin", &bytes).await;
    // About 48 MiB are free, 32 of which must stay free.
    for size in [17 * MIB, 40 * MIB] {
        let link = service.upload_link("y.bin").await;
        let message = expect_v0_error(service.put(&link.url.single, &content(2, size)).await, 507).await;
        assert!(message.contains("storage is full"), "{message}");
        // A body of unknown length is cut when it exceeds the free space.
        let pieces = (0..size / MIB).map(|piece| Ok::<_, std::io::Error>(content(piece as u64, MIB)));
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces.collect::<Vec<_>>()));
        let sent = service.client().put(service.url(&link.url.single)).body(body).send().await;
        assert!(!sent.is_ok_and(|answer| answer.status() != 507), "{size}");
    }
    for part_size in [8 * MIB, 64 * MIB] {
        let wish = json!({"name": "x", "size": 40 * MIB, "part_size": part_size});
        expect_problem(service.v1_post("/uploads", &wish).await, 507, "storage_full").await;
    }
    assert_eq!(
        service.sql("SELECT count(*) FROM files WHERE state = 'receiving' AND part_size > 0").await,
        ["0"]
    );
    assert!(service.read(&uid).await == bytes);
    // A small upload still succeeds, and released space is used again.
    service.store("x.bin", &content(3, MIB)).await;
    assert_eq!(service.v1(reqwest::Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
    let again = content(4, 16 * MIB);
    eventually("there is space again", async || {
        let link = service.upload_link("y.bin").await;
        (service.put(&link.url.single, &again).await.status() == 200).then_some(())
    })
    .await;
}
