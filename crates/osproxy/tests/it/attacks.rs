//! Hostile requests: oversized, compressed, and smuggled.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use reqwest::Method;
use serde_json::json;

use crate::support::{Http2Client, RawConnection, Service, expect_problem, expect_v0_error};

async fn assert_healthy(service: &Service) {
    let start = Instant::now();
    assert_eq!(service.get("/health/live").await.status(), 200);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_header_of_1_mb_is_refused() {
    let service = Service::start().await;
    let mut connection = service.connect().await;
    connection.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: ").await;
    connection.try_send(&vec![b'x'; 1 << 20]).await;
    let answer = connection.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // A head that is only slightly too large gets a problem document.
    for (size, status) in [(31_000, 200), (33_000, 431)] {
        let value = "x".repeat(size);
        let answer =
            service.client().get(service.url("/health/live")).header("x", &value).send().await.unwrap();
        assert_eq!(answer.status(), status, "{size}");
        if status == 431 {
            expect_problem(answer, 431, "header_too_large").await;
        }
    }
    // So does a long path.
    let path = format!("/api/v1/files?cursor={}", "x".repeat(33_000));
    expect_problem(service.get(&path).await, 431, "header_too_large").await;
    assert_healthy(&service).await;
}

#[tokio::test]
async fn ten_thousand_headers_are_refused() {
    let service = Service::start().await;
    let mut connection = service.connect().await;
    connection.try_send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n").await;
    connection.try_send("X: y\r\n".repeat(10_000).as_bytes()).await;
    connection.try_send(b"\r\n").await;
    let answer = connection.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    for (count, status) in [(90, 200), (101, 431), (10_000, 431)] {
        let mut client = Http2Client::connect(service.address).await;
        let mut request = Request::get("http://test/health/live");
        for number in 0..count {
            request = request.header(format!("x{number}"), "y");
        }
        let answer = client.send(request.body(Full::default()).unwrap()).await;
        // A much larger number of headers ends the connection.
        assert_eq!(answer.map_or(431, |answer| answer.status().as_u16()), status, "{count}");
    }
    assert_healthy(&service).await;
}

#[tokio::test]
async fn two_thousand_idle_connections_hold_up_nobody() {
    // Timeouts are long enough that the idle connections stay open.
    let service =
        Service::start_with(&[("SERVER__HEADER_TIMEOUT", "3600"), ("SERVER__IDLE_TIMEOUT", "3600")]).await;
    let mut idle = Vec::new();
    for number in 0..2000 {
        let mut connection = service.connect().await;
        if number % 2 == 0 {
            connection.send(b"GET /health/live HT").await;
        }
        idle.push(connection);
    }
    for _ in 0..20 {
        let uid = service.store("x.bin", b"hello").await;
        assert_eq!(service.read(&uid).await, b"hello");
    }
    assert_healthy(&service).await;
    assert!(service.peak_memory() < 200 << 20, "{} bytes", service.peak_memory());
    drop(idle);
}

/// Encodes an HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[tokio::test]
async fn an_http_2_rapid_reset_ends_its_connection() {
    let service = Service::start().await;
    let mut connection = RawConnection::open(service.address).await;
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    connection.send(&frame(4, 0, 0, &[])).await;
    // HPACK: GET, http, /, and an authority.
    let head = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
    let mut sent = 0;
    let start = Instant::now();
    'attack: loop {
        let mut burst = Vec::new();
        for _ in 0..500 {
            let stream = sent * 2 + 1;
            burst.extend(frame(1, 5, stream, &head));
            burst.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
            sent += 1;
        }
        if !connection.try_send(&burst).await {
            break 'attack;
        }
        assert!(sent < 1_000_000 && start.elapsed() < Duration::from_secs(30), "the connection stays open");
    }
    println!("the connection was closed after {sent} resets");
    assert_healthy(&service).await;
}

#[tokio::test]
async fn a_zip_bomb_is_not_unpacked() {
    let service = Service::start().await;
    let bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    for coding in ["gzip", "identity, br", "deflate"] {
        let post = |route: &str| {
            let request = service.client().post(service.url(route)).header("content-encoding", coding);
            request.header("content-type", "application/json").body(bomb.clone()).send()
        };
        expect_problem(post("/api/v1/uploads").await.unwrap(), 415, "unsupported_media_type").await;
        expect_v0_error(post("/api/storage/v0/link/upload").await.unwrap(), 415).await;
        expect_v0_error(post("/api/storage/v0/resume").await.unwrap(), 415).await;
    }
    // Compressed bytes are valid content when no `Content-Encoding` is declared.
    let link = service.upload_link("x.gz").await;
    assert_eq!(service.put(&link.url.single, &bomb).await.status(), 200);
    assert_eq!(service.read(&link.uid).await, bomb);
}

#[tokio::test]
async fn json_of_100_mb_is_refused_and_not_kept() {
    let service = Service::start().await;
    assert_healthy(&service).await;
    let before = service.peak_memory();
    let fields = "Content-Type: application/json\r\nContent-Length: 104857600\r\n";
    let endless = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let piece = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for url in ["/api/v1/uploads", "/api/storage/v0/link/upload"] {
        for fields in [fields, endless] {
            let mut connection = service.connect().await;
            connection.send_head("POST", url, &(service.authorization() + fields)).await;
            connection.send(piece.as_bytes()).await;
            let answer = String::from_utf8(connection.read_some().await).unwrap();
            assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
            let mut sent = 0;
            while connection.try_send(piece.as_bytes()).await {
                sent += 1;
                assert!(sent < 100, "the whole body was read");
            }
        }
    }
    let grown = service.peak_memory() - before;
    assert!(grown < 32 << 20, "{grown} bytes");
}

#[tokio::test]
async fn deeply_nested_json_is_refused() {
    let service = Service::start().await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = format!("{}{}", open.repeat(9_000), close.repeat(9_000));
        let in_field = format!("{{\"name\":\"x\",\"metadata\":{{\"a\":{nested}}}}}");
        for body in [nested, in_field] {
            let post = |route: &str| {
                let request =
                    service.client().post(service.url(route)).header("content-type", "application/json");
                request.body(body.clone()).send()
            };
            expect_problem(post("/api/v1/uploads").await.unwrap(), 400, "invalid_argument").await;
            expect_v0_error(post("/api/storage/v0/link/upload").await.unwrap(), 422).await;
        }
    }
    assert_healthy(&service).await;
}

#[tokio::test]
async fn a_form_with_10_000_fields_is_refused() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let field = |name: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n");
    let many = field("other").repeat(10_000);
    for form in [format!("{many}{}--b--\r\n", field("file")), format!("{}{many}--b--\r\n", field("file"))] {
        let put = service.client().put(service.url(&link.url.single));
        let put = put.header("content-type", "multipart/form-data; boundary=b");
        expect_v0_error(put.body(form).send().await.unwrap(), 422).await;
    }
    assert_eq!(service.objects(), [""; 0]);
}

#[tokio::test]
async fn methods_that_reflect_or_tunnel_are_not_there() {
    let service = Service::start().await;
    for method in ["TRACE", "TRACK", "CONNECT", "PROPFIND"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request =
            service.client().request(method.clone(), service.url("/api/v1/files")).header("x-secret", "hush");
        let answer = request.send().await.unwrap();
        assert!([404, 405].contains(&answer.status().as_u16()), "{method}");
        assert!(!answer.text().await.unwrap().contains("hush"));
    }
}

#[tokio::test]
async fn a_body_that_is_smuggled_is_no_request() {
    let service = Service::start().await;
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: identity, chunked, x\r\n",
    ] {
        let mut connection = service.connect().await;
        connection.send_head("POST", "/api/v1/uploads", &(service.authorization() + fields)).await;
        connection
            .try_send(b"0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await;
        let answer = connection.read_to_end().await;
        assert!(!answer.contains("HTTP/1.1 200"), "{fields}: {answer}");
    }
    // The same through HTTP/2, whose headers have no line structure.
    let mut client = Http2Client::connect(service.address).await;
    let wish = Bytes::from(json!({"name": "x"}).to_string());
    let request = Request::post("http://localhost/api/v1/uploads").header("content-type", "application/json");
    let request = request.header("authorization", format!("Bearer {}", service.key().unwrap()));
    let answer = client.send(request.body(Full::new(wish)).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 201);
    answer.into_body().collect().await.unwrap();
}
