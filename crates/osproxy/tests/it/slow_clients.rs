//! Clients that send or read too slowly, or not at all.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;

use crate::support::{Http2Client, RawConnection, Service, content, eventually};

const PAUSE: Duration = Duration::from_millis(50);

/// Sends the same bytes repeatedly until the other side closes or answers. Returns the answer.
async fn trickle(mut connection: RawConnection, piece: &[u8]) -> String {
    let start = Instant::now();
    while connection.try_send(piece).await {
        assert!(start.elapsed() < Duration::from_secs(30), "the connection stays open");
        if let Ok(some) = tokio::time::timeout(PAUSE, connection.read_some()).await {
            return String::from_utf8(some).unwrap() + &connection.read_to_end().await;
        }
    }
    connection.read_to_end().await
}

#[tokio::test]
async fn a_slow_loris_on_heads_is_dropped() {
    let service = Service::start_with(&[("SERVER__HEADER_TIMEOUT", "1")]).await;
    let mut connection = service.connect().await;
    connection.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n").await;
    assert_eq!(trickle(connection, b"X: y\r\n").await, "");
    // Nor on a second request: its head has a shorter timeout than an idle connection.
    let mut connection = service.connect().await;
    connection.send_head("GET", "/health/live", "").await;
    assert!(connection.read_some().await.starts_with(b"HTTP/1.1 200"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    connection.send_head("GET", "/health/live", "").await;
    assert!(connection.read_some().await.starts_with(b"HTTP/1.1 200"));
    let start = Instant::now();
    connection.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n").await;
    assert_eq!(trickle(connection, b"X: y\r\n").await, "");
    assert!(start.elapsed() < Duration::from_secs(10));
    // Nor a silent connection, nor one that only starts to speak HTTP/2.
    for beginning in
        [&b""[..], b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"]
    {
        let mut connection = service.connect().await;
        connection.send(beginning).await;
        let start = Instant::now();
        connection.read_to_end().await;
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_slow_loris_on_bodies_is_refused_and_leaves_nothing() {
    let settings = [("SERVER__MIN_RATE", "100000"), ("SERVER__MIN_RATE_WINDOW", "1")];
    let service = Service::start_with(&settings).await;
    let link = service.upload_link("x.bin").await.url.single;
    let form = "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n";
    for (method, url, fields, beginning) in [
        ("PUT", &*link, "Content-Length: 1000000\r\n", ""),
        ("POST", "/api/storage/v0/resume", "Content-Length: 200000\r\n", ""),
        (
            "PUT",
            &link,
            form,
            "40\r\n--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n123456789\r\n",
        ),
    ] {
        let mut connection = service.connect().await;
        connection.send_head(method, url, &(service.authorization() + fields)).await;
        connection.send(beginning.as_bytes()).await;
        let answer = trickle(connection, b"3\r\nabc\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{url}: {answer}");
        assert!(answer.contains("the client sent less than the minimum rate"), "{url}: {answer}");
    }
    eventually("nothing is left behind", async || service.objects().is_empty().then_some(())).await;
}

#[tokio::test]
async fn who_is_slow_but_not_too_slow_is_served() {
    let settings =
        [("SERVER__MIN_RATE", "100000"), ("SERVER__MIN_RATE_WINDOW", "1"), ("SERVER__WRITE_TIMEOUT", "2")];
    let service = Service::start_with(&settings).await;
    let bytes = content(1, 3_000_000);
    let link = service.upload_link("x.bin").await;
    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single, "Content-Length: 3000000\r\nConnection: close\r\n").await;
    for piece in bytes.chunks(50_000) {
        connection.send(piece).await;
        tokio::time::sleep(2 * PAUSE).await;
    }
    assert!(connection.read_to_end().await.starts_with("HTTP/1.1 200"));
    let url = service.download_link(&link.uid).await.unwrap().url;
    let mut connection = service.connect().await;
    connection.send_head("GET", &url, "Connection: close\r\n").await;
    let mut taken = Vec::new();
    loop {
        let some = connection.read_some().await;
        if some.is_empty() {
            break;
        }
        taken.extend(some);
        tokio::time::sleep(2 * PAUSE).await;
    }
    assert!(taken.ends_with(&bytes), "{} bytes", taken.len());
}

/// Stores a file larger than the socket buffers of both sides.
async fn large(service: &Service) -> String {
    let uid = service.store("x.bin", &content(1, 64 << 20)).await;
    service.download_link(&uid).await.unwrap().url
}

async fn assert_aborted(service: &Service) {
    eventually("the download is aborted", async || {
        let log = service.log();
        log.lines()
            .any(|line| line.contains("/api/storage/v0/download") && line.contains("complete=false"))
            .then_some(())
    })
    .await;
    eventually("the object is closed", async || (service.open_objects() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_and_its_object_closed() {
    let service = Service::start_with(&[("SERVER__WRITE_TIMEOUT", "1")]).await;
    let url = large(&service).await;
    let mut connection = service.connect().await;
    connection.send_head("GET", &url, "").await;
    assert!(connection.read_some().await.starts_with(b"HTTP/1.1 200"));
    assert_eq!(service.open_objects(), 1);
    assert_aborted(&service).await;
    drop(connection);
}

#[tokio::test]
async fn a_slow_reader_is_cut_and_its_object_closed() {
    let settings = [("SERVER__MIN_RATE", "10000000"), ("SERVER__MIN_RATE_WINDOW", "1")];
    let service = Service::start_with(&settings).await;
    let url = large(&service).await;
    let mut connection = service.connect().await;
    connection.send_head("GET", &url, "").await;
    let reads = async {
        loop {
            connection.read_some().await;
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = reads => {}
        () = assert_aborted(&service) => {}
    }
}

#[tokio::test]
async fn a_slow_reader_on_http_2_loses_its_stream_and_no_other() {
    let settings = [("SERVER__WRITE_TIMEOUT", "2"), ("SERVER__MIN_RATE", "1000000")];
    let service = Service::start_with(&settings).await;
    let url = large(&service).await;
    let mut client = Http2Client::connect(service.address).await;
    let answer = client.get(&url).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_aborted(&service).await;
    assert!(answer.into_body().collect().await.is_err());
    assert_eq!(client.get("/health/live").await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_has_no_request_is_dropped() {
    let service = Service::start_with(&[("SERVER__IDLE_TIMEOUT", "1")]).await;
    let mut connection = service.connect().await;
    for _ in 0..5 {
        connection.send_head("GET", "/health/live", "").await;
        assert!(connection.read_some().await.starts_with(b"HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let start = Instant::now();
    assert_eq!(connection.read_to_end().await, "");
    assert!(start.elapsed() < Duration::from_secs(10));
    // A connection with a request in progress is not idle.
    let link = service.upload_link("x.bin").await;
    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single, "Content-Length: 2\r\nConnection: close\r\n").await;
    connection.send(b"a").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    connection.send(b"b").await;
    assert!(connection.read_to_end().await.starts_with("HTTP/1.1 200"));
    // HTTP/2 announces the end to the client.
    let mut client = Http2Client::connect(service.address).await;
    assert_eq!(client.get("/health/live").await.unwrap().status(), 200);
    eventually("the connection is closed", async || client.is_closed().then_some(())).await;
}
