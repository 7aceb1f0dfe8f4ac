//! Malformed request heads.

use hyper::Request;
use serde_json::Value;

use crate::support::{Http2Client, RawConnection, Service, eventually};

const OK: &str = "HTTP/1.1 200 ";

async fn answer(service: &Service, head: &[u8]) -> String {
    let mut connection = RawConnection::open(service.address).await;
    connection.try_send(head).await;
    connection.read_to_end().await
}

/// Asserts that an answer is a problem document with the usual headers, and returns the document.
fn is_problem(answer: &str, status: &str, code: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name} is not in {head}")).split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(field("content-type"), "application/problem+json");
    assert_eq!(field("osproxy-error"), code);
    assert_eq!(field("x-content-type-options"), "nosniff");
    assert_eq!(field("content-length"), body.len().to_string());
    field("date");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["code"], code);
    assert_eq!(problem["request_id"], field("x-request-id"));
    problem
}

/// Heads that cannot be parsed, with the status and code of their answers.
fn unreadable() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let large = format!("GET /health/live HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET /health/live HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200));
    let path = format!("GET /f/1/{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    vec![
        (large.into_bytes(), "431", "header_too_large"),
        (many.into_bytes(), "431", "header_too_large"),
        (path.into_bytes(), "431", "header_too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n".to_vec(), "400", "invalid_argument"),
        (b"GET / HTTP/7.1\r\nHost: x\r\n\r\n".to_vec(), "400", "invalid_argument"),
        (b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "400", "invalid_argument"),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 it speaks TLS \r\n\r\n".to_vec(),
            "400",
            "invalid_argument",
        ),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n".to_vec(), "400", "invalid_argument"),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n".to_vec(), "400", "invalid_argument"),
    ]
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_answered_like_any_request() {
    let service = Service::start().await;
    for (head, status, code) in unreadable() {
        let begins = String::from_utf8_lossy(&head[..head.len().min(40)]).into_owned();
        let said = answer(&service, &head).await;
        let problem = is_problem(&said, status, code);
        assert!(said.to_lowercase().contains("\r\naccess-control-allow-origin: *\r\n"), "{begins}: {said}");
        assert!(said.contains("\r\nconnection: close\r\n"), "{begins}: {said}");
        // The access log has the same request id.
        let id = problem["request_id"].as_str().unwrap();
        let line =
            async || service.log().lines().any(|line| line.contains(id) && line.contains(code)).then_some(());
        eventually("the request is logged", line).await;
    }
    // After a served request on the same connection, and pipelined behind one whose answer is still
    // being sent.
    let uid = service.store("x.bin", b"hello").await;
    let url = service.download_link(&uid).await.unwrap().url;
    let mut connection = service.connect().await;
    connection.send_head("GET", &url, "").await;
    let mut first = connection.read_some().await;
    while !first.ends_with(b"hello") {
        first.extend(connection.read_some().await);
    }
    connection.send(b"no request\r\n\r\n").await;
    is_problem(&connection.read_to_end().await, "400", "invalid_argument");
    let both = format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\nno request\r\n\r\n");
    let said = answer(&service, both.as_bytes()).await;
    assert!(said.starts_with(OK), "{said}");
    let (_, second) = said.split_once("hello").unwrap();
    is_problem(second, "400", "invalid_argument");
    // Content that looks like an error answer stays content.
    let like = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".repeat(20_000);
    let uid = service.store("y.bin", &like).await;
    assert!(service.read(&uid).await == like);
}

#[tokio::test]
async fn the_one_page_that_may_use_the_service_sees_why() {
    let config = "cors: {allow_origins: ['https://app.example.net']}";
    let service = Service::start_configured(config).await;
    let said = answer(&service, b"no request\r\n\r\n").await;
    is_problem(&said, "400", "invalid_argument");
    assert!(said.contains("\r\naccess-control-allow-origin: https://app.example.net\r\n"), "{said}");
}

#[tokio::test]
async fn a_request_names_one_host() {
    let service = Service::start().await;
    let ask = async |version: &str, hosts: &[&str]| {
        let mut head = format!("GET /health/live HTTP/{version}\r\n");
        for host in hosts {
            head.extend(["Host: ", host, "\r\n"]);
        }
        head.push_str("Connection: close\r\n\r\n");
        answer(&service, head.as_bytes()).await
    };
    for hosts in [&["x"][..], &["files.example.org:8888"], &["127.0.0.1"], &["[::1]:80"]] {
        let said = ask("1.1", hosts).await;
        assert!(said.starts_with(OK), "{hosts:?}: {said}");
    }
    for hosts in
        [&[][..], &["x", "x"], &["x", "y"], &[""], &["a b"], &["a/b"], &["user@x"], &["x:port"], &["x, y"]]
    {
        let said = ask("1.1", hosts).await;
        let problem = is_problem(&said, "400", "invalid_argument");
        assert_eq!(problem["field"], "host", "{hosts:?}: {said}");
    }
    // HTTP/1.0 has no `Host`; load balancers probe without it.
    let said = ask("1.0", &[]).await;
    assert!(said.starts_with("HTTP/1.0 200 ") || said.starts_with(OK), "{said}");
    // HTTP/2 has two places for the host, which must agree.
    let mut client = Http2Client::connect(service.address).await;
    for (host, status) in [(None, 200), (Some("test"), 200), (Some("other"), 400)] {
        let mut request = Request::get("http://test/health/live");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let said = client.send(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
        assert_eq!(said.status(), status, "{host:?}");
    }
    // A head that is only slightly too large gets an error code there too.
    let request = Request::get("http://test/health/live").header("x", "x".repeat(50_000));
    let said = client.send(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
    assert_eq!(
        (said.status().as_u16(), said.headers()["osproxy-error"].to_str().unwrap()),
        (431, "header_too_large")
    );
}
