//! Bodies that end early, and bodies that are encoded or partial.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::support::{Api, Service, content, eventually, expect_problem, expect_v0_error, md5_hex};

/// Every upload route, each with its own link for the file `x.bin`: API v0 and v1, whole and in
/// parts.
async fn targets(service: &Api) -> [(String, bool); 4] {
    let (whole, parts) = (service.upload_link("x.bin").await, service.upload_link("x.bin").await);
    let [content, part] = [
        service.create_upload(&json!({"name": "x.bin"})).await.links.unwrap().content,
        service.create_upload(&json!({"name": "x.bin"})).await.links.unwrap().part.replace("{number}", "1"),
    ];
    [
        (whole.url.single, true),
        (format!("{}&chunkNum=1", parts.url.multi.upload), true),
        (content, false),
        (part, false),
    ]
}

/// Asserts that nothing was stored.
async fn nothing_is_left(service: &Service) {
    eventually("nothing is left behind", async || service.objects().is_empty().then_some(())).await;
    assert_eq!(
        service.sql("SELECT uid FROM files WHERE state <> 'pending' AND state <> 'receiving'").await,
        [""; 0]
    );
    assert_eq!(service.sql("SELECT id FROM parts WHERE state = 'stored'").await, [""; 0]);
}

#[tokio::test]
async fn who_stalls_is_told_that_the_request_may_be_repeated_and_it_may() {
    let mut service = Service::start_with(&[("SERVER__BODY_TIMEOUT", "1")]).await;
    let mut urls: Vec<_> = targets(&service).await.map(|(url, _)| ("PUT", url)).into();
    urls.push(("POST", "/api/v1/uploads".to_owned()));
    urls.push(("POST", "/api/storage/v0/link/upload".to_owned()));
    for (method, url) in &urls {
        let mut connection = service.connect().await;
        let fields = service.authorization() + "Content-Type: application/json\r\nContent-Length: 100\r\n";
        connection.send_head(method, url, &fields).await;
        connection.send(b"{\"name\": ").await;
        // The client stalls without closing its side.
        let answer = connection.read_to_end().await;
        let head = answer.to_lowercase();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{url}: {answer}");
        for field in ["osproxy-error: incomplete_body", "retry-after: 1", "connection: close"] {
            assert!(head.contains(&format!("\r\n{field}\r\n")), "{url}: {field}: {answer}");
        }
        assert!(answer.contains("the client sent no data for too long"), "{answer}");
    }
    nothing_is_left(&service).await;
    // The same links accept a second request.
    for (_, url) in urls.iter().filter(|(method, _)| *method == "PUT") {
        assert!(service.put(url, b"hello").await.status().is_success(), "{url}");
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_fragment_is_not_taken_for_the_file() {
    let mut service = Service::start().await;
    // What `curl -C 4 -T` sends.
    for (url, is_v0) in targets(&service).await {
        for range in ["bytes 4-9/10", "bytes 0-9/10", "bytes */10"] {
            let put = service.client().put(service.url(&url)).header("content-range", range);
            let answer = put.body("567890").send().await.unwrap();
            if is_v0 {
                assert!(expect_v0_error(answer, 422).await.contains("Content-Range"));
            } else {
                let problem = expect_problem(answer, 400, "invalid_argument").await;
                assert_eq!(problem["field"], "content-range");
            }
        }
    }
    nothing_is_left(&service).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ten"), "1234567890").unwrap();
    let [.., (url, _), _] = targets(&service).await;
    let curl = async |options: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "-T", "ten"]).args(options).arg(service.url(&url));
        let output = curl.current_dir(folder.path()).stdin(Stdio::null()).output().await.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (stored, said) = curl(&["-C", "4"]).await;
    assert!(!stored && said.contains("Content-Range"), "{said}");
    nothing_is_left(&service).await;
    let (stored, said) = curl(&[]).await;
    assert!(stored && said.contains("\"state\":\"stored\""), "{said}");
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_body_that_is_coded_is_not_taken_for_what_it_stands_for() {
    let mut service = Service::start().await;
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (url, is_v0) in targets(&service).await {
        for coding in ["gzip", "identity, br", "aws-chunked"] {
            let put = service.client().put(service.url(&url)).header("content-encoding", coding);
            let answer = put.body(packed.to_vec()).send().await.unwrap();
            if is_v0 {
                expect_v0_error(answer, 415).await;
            } else {
                expect_problem(answer, 415, "unsupported_media_type").await;
            }
        }
        let mut connection = service.connect().await;
        let fields = "Transfer-Encoding: gzip, chunked\r\nConnection: close\r\n";
        connection.send_head("PUT", &url, fields).await;
        connection.send(&[&b"14\r\n"[..], &packed, b"\r\n0\r\n\r\n"].concat()).await;
        let answer = connection.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("not_implemented"), "{url}: {answer}");
    }
    // The same holds for a form field.
    let [(url, _), ..] = targets(&service).await;
    let form = |field: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"file\"\r\n{field}\r\nhello\r\n--b--\r\n")
    };
    let put = async |form: String| {
        let put = service.client().put(service.url(&url));
        put.header("content-type", "multipart/form-data; boundary=b").body(form).send().await.unwrap()
    };
    expect_v0_error(put(form("Content-Encoding: gzip\r\n")).await, 415).await;
    nothing_is_left(&service).await;
    assert!(!service.log().contains("ERROR"), "{}", service.log());
    assert_eq!(put(form("Content-Encoding: identity\r\n")).await.status(), 200);
    // `Content-Encoding: identity` is accepted.
    for (url, _) in targets(&service).await {
        let put = service.client().put(service.url(&url)).header("content-encoding", "identity");
        assert!(put.body("hello").send().await.unwrap().status().is_success(), "{url}");
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn chunks_that_are_none_are_malformed() {
    let service = Service::start().await;
    for (url, is_v0) in targets(&service).await {
        let mut connection = service.connect().await;
        connection.send_head("PUT", &url, "Transfer-Encoding: chunked\r\n").await;
        connection.send(b"3\r\nabc\r\nno size\r\n").await;
        let answer = connection.read_to_end().await;
        let status = if is_v0 { 422 } else { 400 };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{url}: {answer}");
        assert!(answer.contains("malformed") && !answer.contains("\r\nretry-after:"), "{url}: {answer}");
    }
    nothing_is_left(&service).await;
}

#[tokio::test]
async fn a_form_that_lacks_its_end_is_malformed_and_one_that_breaks_off_is_not() {
    let service = Service::start_with(&[("SERVER__BODY_TIMEOUT", "1")]).await;
    let bytes = content(1, 1000);
    let link = service.upload_link("x.bin").await;
    let head = b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n";
    let form = [&head[..], &bytes].concat();
    let url = format!("{}&md5={}", link.url.single, md5_hex(&bytes));
    let put =
        service.client().put(service.url(&url)).header("content-type", "multipart/form-data; boundary=b");
    let answer = put.body(form.clone()).send().await.unwrap();
    assert!(!answer.headers().contains_key("retry-after"), "a retry cannot help");
    expect_v0_error(answer, 422).await;
    let mut connection = service.connect().await;
    let fields = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 2000\r\n";
    connection.send_head("PUT", &url, fields).await;
    connection.send(&form).await;
    let answer = connection.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    nothing_is_left(&service).await;
}
