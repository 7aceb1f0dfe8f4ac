//! What a signature must be, and what it must cover.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::Scene;
use crate::support::{RawConnection, S3Key, send_s3};

/// Clients may be wrong by a quarter of an hour.
const MAX_SKEW: i64 = 15 * 60;

#[tokio::test]
async fn only_the_right_secret_signs() {
    let scene = Scene::start().await;
    let answer = scene.get("/").send(scene.address, &scene.key).await;
    assert_eq!((answer.status, answer.element("ID")), (200, "shop"), "{answer:?}");
    let wrong = S3Key { secret_access_key: "x".repeat(40), ..scene.key.clone() };
    assert_eq!(scene.list_buckets(&wrong).await, (403, "SignatureDoesNotMatch".to_owned()));
    for id in ["OSPAAAAAAAAAAAAAAAAA", "AKIAIOSFODNN7EXAMPLE", "x", &"x".repeat(1000)] {
        let unknown = S3Key { access_key_id: id.to_owned(), ..scene.key.clone() };
        assert_eq!(scene.list_buckets(&unknown).await, (403, "InvalidAccessKeyId".to_owned()), "{id}");
    }
    for path in ["/", "/photos", "/photos/1.jpg"] {
        let (head, _) = scene.get(path).sign(&scene.key);
        let (anonymous, _) = head.split_once("authorization").unwrap();
        let answer = send_s3(scene.address, anonymous.as_bytes(), b"").await;
        assert_eq!(answer.outcome(), (403, "AccessDenied"), "{path}");
    }
}

#[tokio::test]
async fn requests_without_content_need_no_length() {
    let scene = Scene::start().await;
    let (head, _) = scene.get("/").sign(&scene.key);
    let mut connection = RawConnection::open(scene.address).await;
    connection.send(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
    let text = connection.read_to_end().await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn clocks_may_differ_by_a_quarter_of_an_hour_and_regions_by_anything() {
    let scene = Scene::start().await;
    for (ahead, outcome) in [
        (MAX_SKEW - 30, (200, "")),
        (30 - MAX_SKEW, (200, "")),
        (MAX_SKEW + 30, (403, "RequestTimeTooSkewed")),
        (-MAX_SKEW - 30, (403, "RequestTimeTooSkewed")),
        (-86400 * 400, (403, "RequestTimeTooSkewed")),
    ] {
        let answer = scene.get("/").ahead(ahead).send(scene.address, &scene.key).await;
        assert_eq!(answer.outcome(), outcome, "{ahead}");
    }
    let mut request = scene.get("/");
    request.region = "eu-central-1";
    assert_eq!(request.send(scene.address, &scene.key).await.status, 200);
    request.service = "sts";
    let answer = request.send(scene.address, &scene.key).await;
    assert_eq!(answer.outcome(), (400, "AuthorizationHeaderMalformed"));
}

#[tokio::test]
async fn every_flipped_bit_of_a_signed_request_is_refused() {
    let scene = Scene::start().await;
    let mut request = scene.get("/").header("x-amz-meta-colour", "blue").header("range", "bytes=0-9");
    request.query = "max-buckets=7&prefix=abc".to_owned();
    let (head, _) = request.sign(&scene.key);
    assert_eq!(send_s3(scene.address, head.as_bytes(), b"").await.status, 200, "{head}");
    // The names of headers are spelled in any case, and the version of HTTP is not signed.
    let first_end = head.find(" HTTP/1.1\r\n").unwrap();
    let mut flipped = Vec::new();
    let mut start = 0;
    for line in head.split_inclusive("\r\n") {
        let values = if start == 0 { 0..first_end } else { line.find(": ").unwrap() + 2..line.len() - 2 };
        flipped.extend(values.map(|position| start + position));
        start += line.len();
    }
    let mut refused = 0;
    for position in flipped {
        for bit in 0..8 {
            let mut changed = head.clone().into_bytes();
            changed[position] ^= 1 << bit;
            let answer = send_s3(scene.address, &changed, b"").await;
            let line = String::from_utf8_lossy(&changed);
            assert!((400..500).contains(&answer.status), "bit {bit} of {position}: {answer:?}\n{line}");
            refused += 1;
        }
    }
    assert!(refused > 2500, "{refused}");
}

#[tokio::test]
async fn headers_of_aws_must_be_signed() {
    let scene = Scene::start().await;
    let (head, _) = scene.get("/photos/1.jpg").sign(&scene.key);
    for line in ["x-amz-copy-source: photos/secret.jpg", "x-amz-meta-a: b", "x-amz-security-token: x"] {
        let answer = send_s3(scene.address, format!("{head}{line}\r\n").as_bytes(), b"").await;
        assert_eq!(answer.outcome(), (403, "AccessDenied"), "{line}");
    }
    // Whoever has a URL for an upload must not copy with it what only the signer can read.
    let mut request = scene.get("/photos/1.jpg");
    request.method = "PUT";
    let target = request.presign(&scene.key, 60);
    let put = |more: &str| format!("PUT {target} HTTP/1.1\r\nhost: {}\r\n{more}", scene.address);
    let answer = send_s3(scene.address, put("").as_bytes(), b"x").await;
    assert_eq!(answer.outcome(), (404, "NoSuchBucket"), "{answer:?}");
    let copy = put("x-amz-copy-source: photos/secret.jpg\r\n");
    let answer = send_s3(scene.address, copy.as_bytes(), b"").await;
    assert_eq!(answer.outcome(), (403, "AccessDenied"));
}

#[tokio::test]
async fn presigned_urls_work_until_they_expire() {
    let scene = Scene::start().await;
    let open = async |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n", scene.address);
        send_s3(scene.address, head.as_bytes(), b"").await
    };
    let target = scene.get("/").presign(&scene.key, 60);
    assert_eq!(open(&target).await.outcome(), (200, ""));
    for (ahead, expires, outcome) in [
        (-50, 60, (200, "")),
        (-70, 60, (403, "AccessDenied")),
        (MAX_SKEW + 30, 60, (403, "RequestTimeTooSkewed")),
        (0, 604_800, (200, "")),
        (0, 604_801, (400, "AuthorizationQueryParametersError")),
        (0, 0, (400, "AuthorizationQueryParametersError")),
    ] {
        let target = scene.get("/").ahead(ahead).presign(&scene.key, expires);
        assert_eq!(open(&target).await.outcome(), outcome, "{ahead} {expires}");
    }
    for (from, to, outcome) in [
        ("Expires=60", "Expires=61", (403, "SignatureDoesNotMatch")),
        ("/?", "/photos?", (403, "SignatureDoesNotMatch")),
        ("SHA256", "SHA1", (400, "AuthorizationQueryParametersError")),
        ("&X-Amz-Signature=", "&X-Amz-Nothing=", (400, "AuthorizationQueryParametersError")),
    ] {
        assert_eq!(open(&target.replacen(from, to, 1)).await.outcome(), outcome, "{to}");
    }
}

#[tokio::test]
async fn signature_version_2_is_refused() {
    let scene = Scene::start().await;
    let S3Key { access_key_id: id, secret_access_key: secret } = &scene.key;
    let sign = |text: &str| {
        let mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap().chain_update(text).finalize();
        BASE64_STANDARD.encode(mac.into_bytes())
    };
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let signature = sign(&format!("GET\n\n\n{date}\n/"));
    let query =
        format!("AWSAccessKeyId={id}&Expires=4000000000&Signature={}", sign("GET\n\n\n4000000000\n/"));
    let query = query.replace('+', "%2B");
    for (target, line) in [
        ("/", format!("date: {date}\r\nauthorization: AWS {id}:{signature}\r\n")),
        (&*format!("/?{query}"), String::new()),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n{line}", scene.address);
        let answer = send_s3(scene.address, head.as_bytes(), b"").await;
        assert_eq!(answer.outcome(), (400, "InvalidRequest"), "{head}");
    }
    // A form has its signature in a field.
    let policy = r#"{"expiration": "2999-01-01T00:00:00Z", "conditions": [{"bucket": "photos"}, ["starts-with", "$key", ""]]}"#;
    let policy = BASE64_STANDARD.encode(policy);
    let signature = sign(&policy);
    let fields = [("key", "k"), ("AWSAccessKeyId", id), ("policy", &policy), ("signature", &signature)];
    let answer = send_form(&scene, &fields).await;
    assert_eq!(
        (answer.outcome(), answer.text.contains("AWS4-HMAC-SHA256")),
        ((400, "InvalidRequest"), true),
        "{answer:?}"
    );
}

#[tokio::test]
async fn forms_without_a_signature_are_refused() {
    let scene = Scene::start().await;
    let answer = send_form(&scene, &[("key", "k")]).await;
    assert_eq!(answer.outcome(), (403, "AccessDenied"), "{answer:?}");
    // The file is not read: the answer comes although most of it is missing.
    let mut connection = RawConnection::open(scene.address).await;
    let head = "POST /photos HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=edge\r\n\
                content-length: 1000000\r\nconnection: close\r\n\r\n";
    let part = "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\ncontent";
    connection.send(format!("{head}{part}").as_bytes()).await;
    let text = String::from_utf8(connection.read_some().await).unwrap();
    assert!(text.starts_with("HTTP/1.1 403") && text.contains("<Code>AccessDenied</Code>"), "{text}");
}

/// Sends a form with these fields and a file to the bucket `photos`.
async fn send_form(scene: &Scene, fields: &[(&str, &str)]) -> crate::support::S3Answer {
    let mut body = String::new();
    for (name, value) in fields {
        write!(body, "--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").unwrap();
    }
    body += "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\ncontent\r\n--edge--\r\n";
    let head = format!(
        "POST /photos HTTP/1.1\r\nhost: {}\r\ncontent-type: multipart/form-data; boundary=edge\r\n",
        scene.address
    );
    send_s3(scene.address, head.as_bytes(), body.as_bytes()).await
}
