use osproxy_api::v1::{File, FileState, Layout};
use reqwest::Method;
use serde_json::json;

use crate::support::{Service, content, expect_json, expect_problem, md5_hex};

async fn describe(service: &Service, uid: &str) -> File {
    expect_json(service.v1_get(&format!("/files/{uid}")).await, 200).await
}

#[tokio::test]
async fn a_file_is_described_in_every_state() {
    let service = Service::start().await;
    let link = service.upload_link("dir/picture.PNG").await;
    let pending = describe(&service, &link.uid).await;
    assert_eq!(
        (pending.state, pending.name.as_str(), pending.category.as_str()),
        (FileState::Pending, "picture.PNG", "image")
    );
    assert_eq!(
        (pending.size, &pending.content_type, pending.layout, &pending.stored_at),
        (None, &None, None, &None)
    );
    assert!(pending.expires_at.unwrap() > pending.created_at);
    assert!(pending.metadata.is_empty());
    service.put_parts(&link, &[b"one"]).await;
    let receiving = describe(&service, &link.uid).await;
    assert_eq!((receiving.state, receiving.size, receiving.received), (FileState::Receiving, None, Some(3)));
    let announced =
        service.create_upload(&json!({"name": "y.bin", "size": 100_000, "part_size": 65_536})).await;
    let pending = describe(&service, &announced.uid).await;
    assert_eq!((pending.size, pending.received), (Some(100_000), Some(0)));
    assert_eq!(service.v1_put_part(&announced, 1, &content(2, 65_536)).await.status(), 204);
    let receiving = describe(&service, &announced.uid).await;
    assert_eq!((receiving.state, receiving.size), (FileState::Receiving, Some(100_000)));
    assert_eq!((receiving.received, receiving.stored_at), (Some(65_536), None));
    let listed = service.v1_get("/files?state=receiving").await.json::<serde_json::Value>().await.unwrap();
    assert_eq!(listed["files"][1]["received"], 65_536);

    let bytes = content(1, 100_000);
    let uid = service.store("x.bin", &bytes).await;
    let answer = service.v1_get(&format!("/files/{uid}")).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let stored: File = expect_json(answer, 200).await;
    assert_eq!(
        (stored.state, stored.size, stored.layout),
        (FileState::Stored, Some(100_000), Some(Layout::Whole))
    );
    assert_eq!(stored.content_type.as_deref(), Some("application/octet-stream"));
    assert_eq!((stored.md5.unwrap(), stored.blake3.unwrap().len()), (md5_hex(&bytes), 64));
    assert_eq!((stored.expires_at, stored.received), (None, None));
    let at = stored.stored_at.unwrap();
    assert!(at >= stored.created_at && at.len() == 24 && at.as_bytes()[23] == b'Z', "{at}");

    // Digests of the whole are unknown until a task has read all bytes.
    service.database().hold_merges().await;
    let uid = service.store_in_parts("parts.bin", &content(2, 100_000), 40_000).await;
    let in_parts = describe(&service, &uid).await;
    assert_eq!(
        (in_parts.state, in_parts.size, in_parts.layout),
        (FileState::Stored, Some(100_000), Some(Layout::Parts))
    );
    assert_eq!((in_parts.md5, in_parts.blake3), (None, None));
    service.database().release_merges().await;
    service.wait_until_merged(&uid).await;
    assert_eq!(describe(&service, &uid).await.layout, Some(Layout::Whole));
}

#[tokio::test]
async fn what_is_gone_is_told_from_what_never_was() {
    let service = Service::start_with(&[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
    expect_problem(service.v1_get("/files/1").await, 404, "file_not_found").await;
    for uid in ["x", "0", "-1", "01", "99999999999999999999", "%31%20"] {
        let told =
            expect_problem(service.v1_get(&format!("/files/{uid}")).await, 400, "invalid_argument").await;
        assert_eq!(told["field"], "uid");
    }
    let deleted = service.store("x.bin", b"x").await;
    service.v1(Method::DELETE, &format!("/files/{deleted}"), None).await;
    let expired = service.upload_link("x.bin").await.uid;
    service.sql(&format!("UPDATE files SET state = 'expired' WHERE uid = {expired}")).await;
    for uid in [deleted, expired] {
        expect_problem(service.v1_get(&format!("/files/{uid}")).await, 410, "file_gone").await;
    }
    let uid = service.store("x.bin", b"x").await;
    let route = format!("/files/{uid}");
    let told =
        expect_problem(service.v1_get(&format!("{route}?fields=name")).await, 400, "invalid_argument").await;
    assert_eq!(told["field"], "fields");
    expect_problem(service.v1(Method::GET, &route, Some(&json!({}))).await, 400, "invalid_argument").await;
    expect_problem(service.v1(Method::PUT, &route, None).await, 405, "method_not_allowed").await;
    expect_problem(service.v1_get("/files/").await, 404, "unknown_route").await;
    // A corrupt file does not show the digests its client claimed.
    let link = service.upload_link("corrupt.bin").await;
    service.put_parts(&link, &[b"one", b"two"]).await;
    assert_eq!(
        service.put(&format!("{}&num=2&size=6&md5={:032}", link.url.multi.merge, 0), b"").await.status(),
        200
    );
    crate::support::eventually("the file is corrupt", async || {
        (describe(&service, &link.uid).await.state == FileState::Corrupt).then_some(())
    })
    .await;
    let corrupt = describe(&service, &link.uid).await;
    assert_eq!((corrupt.size, corrupt.received, corrupt.layout), (Some(6), None, None));
    assert_eq!(corrupt.stored_at, None, "the upload was never complete");
    let body = json!({"expires_in": 60});
    expect_problem(service.v1_post(&format!("/files/{}/links", link.uid), &body).await, 410, "file_corrupt")
        .await;
}
