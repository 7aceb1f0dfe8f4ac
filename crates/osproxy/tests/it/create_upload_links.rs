use osproxy_api::{
    grpc::v1::CreateUploadLinkRequest,
    v1::{CreatedUpload, CreatedUploadLinks, UploadState, UploadStatus},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Service, content, eventually, expect_json, expect_problem};

const PART: usize = 64 << 10;

/// An upload of three parts, the first of which is stored.
async fn begun(service: &Service, bytes: &[u8], expires_in: i64) -> CreatedUpload {
    let wish = json!({"name": "x.bin", "size": bytes.len(), "part_size": PART, "expires_in": expires_in});
    let upload = service.create_upload(&wish).await;
    assert_eq!(service.v1_put_part(&upload, 1, &bytes[..PART]).await.status(), 204);
    upload
}

async fn renew(service: &Service, uid: &str, body: &Value) -> CreatedUploadLinks {
    expect_json(service.v1_post(&format!("/uploads/{uid}/links"), body).await, 201).await
}

/// Makes the links of an upload expire a year ago.
async fn let_lapse(service: &Service, uid: &str) {
    service.sql(&format!("UPDATE files SET expires_at = expires_at - 31536000000 WHERE uid = {uid}")).await;
}

#[tokio::test]
async fn an_upload_whose_links_have_ended_goes_on_where_it_was() {
    let mut service = Service::start().await;
    let bytes = content(1, 2 * PART + 5);
    let upload = begun(&service, &bytes, 3).await;
    let state = &upload.links.as_ref().unwrap().state;
    eventually("links have expired", async || (service.get(state).await.status() == 403).then_some(())).await;
    expect_problem(service.v1_put_part(&upload, 2, &bytes[PART..2 * PART]).await, 403, "link_expired").await;
    // The application can still read its state.
    let status: UploadStatus =
        expect_json(service.v1_get(&format!("/uploads/{}", upload.uid)).await, 200).await;
    assert_eq!((status.state, &status.parts[..]), (UploadState::Receiving, &[1][..]));

    let new = renew(&service, &upload.uid, &json!({"expires_in": 600})).await;
    assert_eq!((&new.uid, new.part_size), (&upload.uid, Some(PART as u64)));
    let file = service.describe(&upload.uid).await;
    assert_eq!(file.expires_at.as_ref(), Some(&new.expires_at));
    let status: UploadStatus = expect_json(service.get(&new.links.state).await, 200).await;
    assert_eq!(status.parts, [1]);
    for (number, part) in [(2, &bytes[PART..2 * PART]), (3, &bytes[2 * PART..])] {
        let url = new.links.part.replace("{number}", &number.to_string());
        assert_eq!(service.put(&url, part).await.status(), 204);
    }
    let complete = service.client().post(service.url(&new.links.complete)).send().await.unwrap();
    assert_eq!(complete.status(), 200);
    assert!(service.read(&upload.uid).await == bytes);
    // The next request for links finds the file stored.
    let again = renew(&service, &upload.uid, &json!({})).await;
    let status: UploadStatus = expect_json(service.get(&again.links.state).await, 200).await;
    assert_eq!(status.state, UploadState::Stored);
    service.assert_consistent().await;
}

#[tokio::test]
async fn what_was_renewed_is_not_given_up() {
    let mut service = Service::start().await;
    let bytes = content(2, 2 * PART + 5);
    let [over_http, over_grpc, lapsed] = [
        begun(&service, &bytes, 60).await,
        begun(&service, &bytes, 60).await,
        begun(&service, &bytes, 60).await,
    ];
    for upload in [&over_http, &over_grpc, &lapsed] {
        let_lapse(&service, &upload.uid).await;
    }
    renew(&service, &over_http.uid, &json!({"expires_in": 600})).await;
    let request =
        CreateUploadLinkRequest { uid: over_grpc.uid.clone(), ..CreateUploadLinkRequest::default() };
    service.grpc().files.create_upload_link(request).await.unwrap();
    // Shorter links do not shorten the upload's expiry.
    let end = service.describe(&over_http.uid).await.expires_at;
    renew(&service, &over_http.uid, &json!({"expires_in": 1})).await;
    assert_eq!(service.describe(&over_http.uid).await.expires_at, end);
    // At its start the service gives up expired uploads.
    service.kill_and_restart().await;
    let state = async |uid: &str| service.sql(&format!("SELECT state FROM files WHERE uid = {uid}")).await;
    eventually("it has expired", async || (state(&lapsed.uid).await == ["expired"]).then_some(())).await;
    for upload in [&over_http, &over_grpc] {
        assert_eq!(state(&upload.uid).await, ["receiving"]);
    }
    let route = format!("/uploads/{}/links", lapsed.uid);
    expect_problem(service.v1_post(&route, &json!({})).await, 410, "file_gone").await;
}

#[tokio::test]
async fn new_links_are_good_after_the_old_ones_were_revoked() {
    let service = Service::start().await;
    let bytes = content(3, 2 * PART + 5);
    let upload = begun(&service, &bytes, 600).await;
    let route = format!("/files/{}/links", upload.uid);
    assert_eq!(service.v1(Method::DELETE, &route, None).await.status(), 204);
    expect_problem(service.get(&upload.links.as_ref().unwrap().state).await, 403, "link_revoked").await;
    let new = renew(&service, &upload.uid, &json!({})).await;
    assert_eq!(service.get(&new.links.state).await.status(), 200);
}

#[tokio::test]
async fn nobody_gets_links_to_what_is_not_theirs_and_bad_input_changes_nothing() {
    let service = Service::start().await;
    let admin = service.with_key(&service.create_key(&[]).await);
    let reader = service.with_key(&service.create_key(&["--scopes", "read"]).await);
    let other = service.with_key(&service.create_key(&["--tenant", "other"]).await);
    let small = service.with_key(&service.create_key(&["--max-size", "5"]).await);
    let upload = admin.create_upload(&json!({"name": "x.bin", "expires_in": 60})).await;
    let (route, state) = (format!("/uploads/{}/links", upload.uid), format!("/uploads/{}", upload.uid));
    expect_problem(reader.v1_post(&route, &json!({})).await, 403, "permission_denied").await;
    expect_problem(reader.v1_get(&state).await, 403, "permission_denied").await;
    expect_problem(other.v1_post(&route, &json!({})).await, 404, "file_not_found").await;
    expect_problem(other.v1_get(&state).await, 404, "file_not_found").await;
    expect_problem(admin.v1_post("/uploads/1/links", &json!({})).await, 404, "file_not_found").await;
    let before = admin.describe(&upload.uid).await.expires_at;
    for (body, field) in [
        (json!({"expires_in": 0}), "expires_in"),
        (json!({"expires_in": 31_536_001}), "expires_in"),
        (json!({"constraints": {"content_type": "image"}, "expires_in": 600}), "constraints.content_type"),
        (json!({"size": 5}), "size"),
    ] {
        let wrong = expect_problem(admin.v1_post(&route, &body).await, 400, "invalid_argument").await;
        assert_eq!(wrong["field"], field, "{body}");
    }
    assert_eq!(admin.describe(&upload.uid).await.expires_at, before);
    // The new links have the constraints of this request and of the key.
    let made: CreatedUploadLinks = expect_json(small.v1_post(&route, &json!({})).await, 201).await;
    expect_problem(admin.put(&made.links.content, b"123456").await, 413, "too_large").await;
    let wish = json!({"constraints": {"content_type": "image/png"}});
    let made: CreatedUploadLinks = expect_json(admin.v1_post(&route, &wish).await, 201).await;
    expect_problem(admin.put(&made.links.content, b"plain text").await, 415, "unsupported_media_type").await;
    let made: CreatedUploadLinks = expect_json(admin.v1_post(&route, &json!({})).await, 201).await;
    assert_eq!(admin.put(&made.links.content, b"123456").await.status(), 200);
}

#[tokio::test]
async fn what_is_missing_is_told_in_ranges() {
    let service = Service::start().await;
    let wish = json!({"name": "x.bin", "size": 9_999 * PART, "part_size": PART});
    let upload = service.create_upload(&wish).await;
    let missing = async || {
        let told = expect_problem(service.v1_complete(&upload).await, 409, "parts_missing").await;
        (told["missing"].clone(), told["detail"].as_str().unwrap().to_owned())
    };
    let none = missing().await;
    assert_eq!(none.0, json!(["1-9999"]));
    assert_eq!(none.1, "of 9999 expected parts, these are missing: 1-9999");
    let part = content(4, PART);
    for number in [2, 4, 9_999] {
        assert_eq!(service.v1_put_part(&upload, number, &part).await.status(), 204);
    }
    assert_eq!(missing().await.0, json!([1, 3, "5-9998"]));
    // The OpenAPI document describes it.
    let document: Value = service.get("/openapi.json").await.json().await.unwrap();
    let text = document["components"]["schemas"].to_string();
    assert!(text.contains("\"missing\"") && text.contains("4-9999"), "{text}");
}

#[tokio::test]
async fn messages_about_parts_say_what_must_be() {
    let service = Service::start().await;
    let upload =
        service.create_upload(&json!({"name": "x.bin", "size": 2 * PART + 5, "part_size": PART})).await;
    let detail = async |number: usize, bytes: &[u8], status: u16, code: &str| {
        let told = expect_problem(service.v1_put_part(&upload, number, bytes).await, status, code).await;
        told["detail"].as_str().unwrap().to_owned()
    };
    let said = detail(1, b"short", 422, "size_mismatch").await;
    assert_eq!(said, "this part must have 65536 bytes, as the size and part size of the upload require");
    let said = detail(4, b"x", 422, "size_mismatch").await;
    assert_eq!(said, "the part number is too high: this upload has 3 parts");
    let content_link = &upload.links.as_ref().unwrap().content;
    let told = expect_problem(service.put(content_link, b"short").await, 422, "size_mismatch").await;
    assert_eq!(told["detail"], "the content must have the announced 131077 bytes, not 5");
    // A stored file is not reported as in progress.
    let sized = service.create_upload(&json!({"name": "y.bin"})).await;
    assert_eq!(service.v1_put_part(&sized, 1, b"one").await.status(), 204);
    assert_eq!(service.v1_put_part(&sized, 2, b"two").await.status(), 204);
    assert_eq!(service.v1_complete(&sized).await.status(), 200);
    let told = expect_problem(
        service.put(&sized.links.as_ref().unwrap().content, b"other").await,
        409,
        "already_stored",
    )
    .await;
    assert!(!told["detail"].as_str().unwrap().contains("being verified"), "{told}");
}
