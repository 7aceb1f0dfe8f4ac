//! The listener of the S3 API: host names, TLS, errors and the log.

use serde_json::Value;

use super::Scene;
use crate::support::{Certificate, RawConnection, S3Key, content, eventually, send_s3};

#[tokio::test]
async fn buckets_can_be_subdomains() {
    let scene = Scene::start_with(&[("S3_API__DOMAIN", "s3.example.org")]).await;
    let limited = S3Key::create(&scene.service, &["--buckets", "music"]).await;
    let port = scene.address.port();
    let mut create = scene.get("/photos");
    create.method = "PUT";
    assert_eq!(create.send(scene.address, &scene.key).await.status, 200);
    for (host, path, expected) in [
        ("photos.s3.example.org".to_owned(), "/", (200, "")),
        (format!("photos.s3.example.org:{port}"), "/1.jpg", (404, "NoSuchKey")),
        ("PHOTOS.s3.example.org".to_owned(), "/a/b", (404, "NoSuchKey")),
        ("s3.example.org".to_owned(), "/photos", (200, "")),
        (format!("127.0.0.1:{port}"), "/photos/1.jpg", (404, "NoSuchKey")),
        ("other.example.org".to_owned(), "/photos", (200, "")),
    ] {
        let request = scene.get(path).header("host", &host);
        let answer = request.send(scene.address, &scene.key).await;
        assert_eq!(answer.outcome(), expected, "{host}{path}");
        let answer = request.send(scene.address, &limited).await;
        assert_eq!(answer.outcome(), (403, "AccessDenied"), "{host}{path}");
    }
    for host in ["s3.example.org", "other.example.org", "localhost"] {
        let answer = scene.get("/").header("host", host).send(scene.address, &scene.key).await;
        assert_eq!(answer.outcome(), (200, ""), "{host}");
    }
    // The host is signed.
    let (head, _) = scene.get("/").header("host", "photos.s3.example.org").sign(&scene.key);
    let changed = head.replace("photos.s3", "musics.s3");
    assert_eq!(
        send_s3(scene.address, changed.as_bytes(), b"").await.outcome(),
        (403, "SignatureDoesNotMatch")
    );
}

#[tokio::test]
async fn tls_is_independent_of_the_main_listener() {
    let (certificate, folder) = (Certificate::new(), tempfile::tempdir().unwrap());
    let files = certificate.write(folder.path()).map(|path| path.to_str().unwrap().to_owned());
    let settings = [("S3_API__TLS__CERT", &*files[0]), ("S3_API__TLS__KEY", &*files[1])];
    let scene = Scene::start_with(&settings).await;
    assert_eq!(scene.service.get("/health/live").await.status(), 200);
    let entrance = certificate.start_tunnel(scene.address, b"http/1.1").await;
    let answer = scene.get("/").send(entrance, &scene.key).await;
    assert_eq!(answer.status, 200);
    assert!(answer.text.contains("strict-transport-security: max-age=31536000"), "{answer:?}");
    let mut plain = RawConnection::open(scene.address).await;
    plain.send_head("GET", "/", "").await;
    assert!(!plain.read_to_end().await.contains("HTTP/1.1"));
}

#[tokio::test]
async fn all_errors_are_those_of_s3() {
    let scene = Scene::start_with(&[("SERVER__BODY_TIMEOUT", "1")]).await;
    let long = "x".repeat(100_000);
    let too_long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n");
    for (head, outcome) in [
        ("GET / HTTP/1.1\r\nhost: a b\r\n", (400, "InvalidArgument")),
        ("GET / HTTP/1.1\r\n", (400, "InvalidArgument")),
        ("GET / HTTP/1.1\r\nhost: x\r\n: x\r\n", (400, "InvalidArgument")),
        ("GET /tus/1 HTTP/1.1\r\nhost: x\r\n", (403, "AccessDenied")),
        ("GET /health/live HTTP/1.1\r\nhost: x\r\n", (403, "AccessDenied")),
        ("GET /Photos HTTP/1.1\r\nhost: x\r\n", (400, "InvalidBucketName")),
        (&too_long, (400, "RequestHeaderSectionTooLarge")),
    ] {
        let answer = send_s3(scene.address, head.as_bytes(), b"").await;
        assert_eq!(answer.outcome(), outcome, "{answer:?}");
        assert!(answer.text.contains("content-type: application/xml"), "{answer:?}");
        let id = answer.text.split("x-amz-request-id: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        assert_eq!(id, Some(answer.element("RequestId")), "{answer:?}");
    }
    // A body that stays away, and one that is too large.
    let mut request = scene.get("/photos");
    (request.method, request.query) = ("PUT", "cors=".to_owned());
    request.body = vec![b' '; (2 << 20) + 1];
    let answer = request.send(scene.address, &scene.key).await;
    assert_eq!(answer.outcome(), (400, "MaxMessageLengthExceeded"), "{answer:?}");
    request.body = b"<a/>".to_vec();
    let (head, _) = request.sign(&scene.key);
    let answer = send_s3(scene.address, head.as_bytes(), b"<b/>").await;
    assert_eq!(answer.outcome(), (400, "XAmzContentSHA256Mismatch"), "{answer:?}");
    assert!(!scene.service.log().contains("ERROR"));
    request.body = b"<a/>".to_vec();
    let (head, _) = request.sign(&scene.key);
    let mut connection = RawConnection::open(scene.address).await;
    connection.send(format!("{head}content-length: 4\r\n\r\n<a").as_bytes()).await;
    let text = connection.read_to_end().await;
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("<Code>IncompleteBody</Code>"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
}

#[tokio::test]
async fn the_log_names_operations_and_is_not_flooded_by_clients() {
    let scene = Scene::start_with(&[("LOG__FORMAT", "json")]).await;
    let is_served = |line: &&str| line.contains("served");
    let wrong = S3Key { secret_access_key: "x".repeat(40), ..scene.key.clone() };
    scene.list_buckets(&scene.key).await;
    scene.list_buckets(&wrong).await;
    let mut request = scene.get("/photos/1.jpg");
    (request.method, request.body) = ("PUT", content(1, 1000));
    request.send(scene.address, &scene.key).await;
    let lines = eventually("the requests are logged", async || {
        let log = scene.service.log();
        let lines: Vec<Value> =
            log.lines().filter(is_served).map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= 3).then_some(lines)
    })
    .await;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            ["level", "message", "route", "status", "error"].map(|name| line[name].to_string()).join(" ")
        })
        .collect();
    assert_eq!(
        told,
        [
            r#""INFO" "served" "s3:ListBuckets" 200 null"#,
            r#""INFO" "served" "none" 403 "SignatureDoesNotMatch""#,
            r#""INFO" "served" "s3:PutObject" 404 "NoSuchBucket""#,
        ]
    );
    assert!(!scene.service.log().contains("\"ERROR\"") && !scene.service.log().contains("\"WARN\""));
    let metrics = scene.service.get("/metrics").await.text().await.unwrap();
    assert!(
        metrics.contains(r#"osproxy_requests_total{route="s3:ListBuckets",method="GET",status="200"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let scene = Scene::start().await;
    for (method, path, query, operation) in [
        ("GET", "/photos", "policy=", "GetBucketPolicy"),
        ("GET", "/photos", "acl=", "GetBucketAcl"),
        ("GET", "/photos/1.jpg", "legal-hold=", "GetObjectLegalHold"),
        ("GET", "/photos/1.jpg", "torrent=", "GetObjectTorrent"),
        ("DELETE", "/photos", "website=", "DeleteBucketWebsite"),
    ] {
        let mut request = scene.get(path);
        (request.method, request.query) = (method, query.to_owned());
        let answer = request.send(scene.address, &scene.key).await;
        assert_eq!(answer.outcome(), (501, "NotImplemented"), "{operation}: {answer:?}");
        assert!(answer.element("Message").contains(operation), "{answer:?}");
    }
}
