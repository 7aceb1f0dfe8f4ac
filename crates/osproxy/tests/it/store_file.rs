use osproxy_api::v1::File;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    Api, RawConnection, Service, content, eventually, expect_json, expect_problem, md5_hex,
};

async fn post(api: &Api, query: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut request = api.client().post(api.url(&format!("/api/v1/files?{query}"))).body(body.to_vec());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_file_is_created_and_stored_in_one_request() {
    let service = Service::start().await;
    for (seed, size) in [(1, 0), (2, 5000), (3, 3_000_000)] {
        let bytes = content(seed, size);
        let metadata = "metadata=%7B%22case%22%3A%2217%22%7D";
        let query = format!("name=a/b/report.pdf&{metadata}");
        let answer = post(&service, &query, &[("content-type", "application/pdf")], &bytes).await;
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        let file: File = expect_json(answer, 201).await;
        assert_eq!(location, format!("/api/v1/files/{}", file.uid));
        assert_eq!((&*file.name, file.content_type.as_deref()), ("report.pdf", Some("application/pdf")));
        assert_eq!(file.size, Some(size as u64));
        assert_eq!(file.metadata["case"], "17");
        assert!(service.read(&file.uid).await == bytes);
    }
}

#[tokio::test]
async fn digests_are_compared_and_what_differs_leaves_nothing() {
    let service = Service::start().await;
    let bytes = content(1, 5000);
    let digest = blake3::hash(&bytes);
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let right = format!("blake3=:{}:", base64(digest.as_bytes()));
    let wrong = format!("blake3=:{}:", base64(&[7; 32]));
    let refused = post(&service, "name=x", &[("repr-digest", &wrong)], &bytes).await;
    expect_problem(refused, 422, "digest_mismatch").await;
    let gone =
        async || (service.sql("SELECT count(*) FROM files WHERE listed = 1").await == ["0"]).then_some(());
    eventually("the refused file is removed", gone).await;
    let first: File =
        expect_json(post(&service, "name=x", &[("repr-digest", &right)], &bytes).await, 201).await;
    // Known content need not be read.
    let second: File =
        expect_json(post(&service, "name=y", &[("repr-digest", &right)], &bytes).await, 201).await;
    assert_ne!(first.uid, second.uid);
    assert_eq!(service.sql("SELECT refs FROM blobs").await, ["2"]);
}

#[tokio::test]
async fn a_repeated_request_stores_one_file() {
    let service = Service::start().await;
    let bytes = content(1, 200_000);
    let key = [("idempotency-key", "one")];
    let first: File = expect_json(post(&service, "name=x", &key, &bytes).await, 201).await;
    let again = post(&service, "name=x", &key, &bytes).await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(expect_json::<File>(again, 201).await.uid, first.uid);
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["1"]);
    let other = post(&service, "name=x", &key, &content(2, 200_000)).await;
    expect_problem(other, 409, "already_stored").await;
    expect_problem(post(&service, "name=y", &key, &bytes).await, 422, "key_reused").await;
}

/// The MD5 of content can be that of other content, so it is only compared.
#[tokio::test]
async fn an_md5_alone_is_no_reason_not_to_read_the_body() {
    let service = Service::start().await;
    service.store("x.bin", b"known").await;
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let md5 = base64(&hex::decode(md5_hex(b"known")).unwrap());
    let refused = post(&service, "name=x", &[("content-md5", &md5)], b"other").await;
    expect_problem(refused, 422, "digest_mismatch").await;
    let stored: File =
        expect_json(post(&service, "name=x", &[("content-md5", &md5)], b"known").await, 201).await;
    assert_eq!(service.read(&stored.uid).await, b"known");
}

#[tokio::test]
async fn a_failed_request_does_not_use_up_its_key() {
    let service = Service::start().await;
    let bytes = content(1, 100_000);
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let wrong = format!("blake3=:{}:", base64(&[7; 32]));
    let right = format!("blake3=:{}:", base64(blake3::hash(&bytes).as_bytes()));
    let key = ("idempotency-key", "one");
    let refused = post(&service, "name=x", &[key, ("repr-digest", &wrong)], &bytes).await;
    expect_problem(refused, 422, "digest_mismatch").await;
    let gone =
        async || (service.sql("SELECT count(*) FROM files WHERE listed = 1").await == ["0"]).then_some(());
    eventually("the refused file is removed", gone).await;
    let repeated = async || {
        let answer = post(&service, "name=x", &[key, ("repr-digest", &right)], &bytes).await;
        (answer.status() != 409).then_some(answer)
    };
    let stored: File = expect_json(eventually("the key is released", repeated).await, 201).await;
    assert!(service.read(&stored.uid).await == bytes);
    // Known content, with a key, needs no body at all.
    let other = ("idempotency-key", "two");
    let known: File =
        expect_json(post(&service, "name=y", &[other, ("repr-digest", &right)], b"").await, 201).await;
    assert!(service.read(&known.uid).await == bytes);
    let typed = [key, ("repr-digest", &*right), ("content-type", "text/plain")];
    expect_problem(post(&service, "name=x", &typed, &bytes).await, 422, "key_reused").await;
}

#[tokio::test]
async fn a_request_that_is_cut_off_leaves_nothing_and_can_be_repeated() {
    let service = Service::start().await;
    let authorization = service.authorization();
    let cut = async |headers: &str| {
        let mut connection: RawConnection = service.connect().await;
        let head = format!("Content-Length: 1000000\r\n{authorization}{headers}");
        connection.send_head("POST", "/api/v1/files?name=x", &head).await;
        connection.send(&vec![7; 500_000]).await;
        let begun = async || {
            (service.sql("SELECT count(*) FROM files WHERE listed = 1").await == ["1"]).then_some(())
        };
        eventually("the upload has begun", begun).await;
    };
    cut("Idempotency-Key: one\r\n").await;
    let bytes = content(1, 1_000_000);
    let repeated = async || {
        let answer = post(&service, "name=x", &[("idempotency-key", "one")], &bytes).await;
        (answer.status() != 409).then_some(answer)
    };
    let stored: File = expect_json(eventually("the key is released", repeated).await, 201).await;
    assert!(service.read(&stored.uid).await == bytes);
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{}", stored.uid), None).await.status(), 204);
    cut("").await;
    let gone =
        async || (service.sql("SELECT count(*) FROM files WHERE listed = 1").await == ["0"]).then_some(());
    eventually("the cut file is removed", gone).await;
    service.database().wait_until_idle().await;
    assert_eq!(service.objects(), [""; 0]);
}

#[tokio::test]
async fn a_key_without_the_scope_read_gets_the_uid_only() {
    let service = Service::start().await;
    let key = service.create_key(&["--scopes", "upload"]).await;
    let api = service.with_key(&key);
    let answer = post(&api, "name=x", &[], b"content").await;
    let body: Value = expect_json(answer, 201).await;
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["uid"]);
    let read_only = service.with_key(&service.create_key(&["--scopes", "read"]).await);
    expect_problem(post(&read_only, "name=x", &[], b"content").await, 403, "permission_denied").await;
    expect_problem(post(&service.without_key(), "name=x", &[], b"content").await, 401, "unauthenticated")
        .await;
}

#[tokio::test]
async fn bad_requests_are_refused_and_leave_nothing() {
    let service = Service::start_with(&[("UPLOADS__MAX_SIZE", "100000")]).await;
    for (query, headers, size, status, code) in [
        ("", &[][..], 10, 400, "invalid_argument"),
        ("name=", &[], 10, 400, "invalid_argument"),
        ("name=x&size=5", &[], 10, 400, "invalid_argument"),
        ("name=x&metadata=17", &[], 10, 400, "invalid_argument"),
        ("name=x&metadata=%7B%22a%22%3A1%7D", &[], 10, 400, "invalid_argument"),
        ("name=x&metadata=%7B%22a%22%3A%22%22%2C%22a%22%3A%22%22%7D", &[], 10, 400, "invalid_argument"),
        ("name=x", &[("content-type", "multipart/form-data; boundary=x")], 10, 415, "unsupported_media_type"),
        ("name=x", &[("content-encoding", "gzip")], 10, 415, "unsupported_media_type"),
        ("name=x", &[("content-type", "nonsense")], 10, 400, "invalid_argument"),
        ("name=x", &[("repr-digest", "md5=:x:")], 10, 400, "invalid_argument"),
        ("name=x", &[], 100_001, 413, "too_large"),
    ] {
        let answer = post(&service, query, headers, &content(1, size)).await;
        assert_ne!(answer.status(), StatusCode::OK);
        expect_problem(answer, status, code).await;
    }
    let gone =
        async || (service.sql("SELECT count(*) FROM files WHERE listed = 1").await == ["0"]).then_some(());
    eventually("nothing is left", gone).await;
    assert_eq!(service.objects(), [""; 0]);
}

#[tokio::test]
async fn many_uploads_are_created_at_once_or_none() {
    let service = Service::start().await;
    let wishes: Vec<_> =
        (0..100).map(|number| json!({"name": format!("{number}.bin"), "size": number})).collect();
    let created: Vec<Value> = expect_json(service.v1_post("/uploads", &json!(wishes)).await, 201).await;
    assert_eq!(created.len(), 100);
    for (number, upload) in created.iter().enumerate() {
        let file = service.describe(upload["uid"].as_str().unwrap()).await;
        assert_eq!((file.name, file.size), (format!("{number}.bin"), Some(number as u64)));
        let url = upload["links"]["content"].as_str().unwrap();
        assert_eq!(service.put(url, &content(1, number)).await.status(), 200);
    }
    let count = service.sql("SELECT count(*) FROM files").await;
    let mut too_many = wishes.clone();
    too_many.push(json!({"name": "x"}));
    let mut one_bad = wishes.clone();
    one_bad[50] = json!({"name": ""});
    let mut other_end = wishes;
    other_end[50] = json!({"name": "x", "expires_in": 17});
    for refused in [json!([]), json!(too_many), json!(one_bad), json!(other_end), json!([1])] {
        expect_problem(service.v1_post("/uploads", &refused).await, 400, "invalid_argument").await;
    }
    assert_eq!(service.sql("SELECT count(*) FROM files").await, count);
}
