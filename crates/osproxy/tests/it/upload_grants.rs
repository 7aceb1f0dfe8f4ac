//! Upload grants: web pages and apps create uploads without an API key.

use osproxy_api::v1::{
    CreatedState, CreatedUpload, CreatedUploadLinks, File, Files, UploadGrant, UploadGrantState, UploadGrants,
};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{Api, Service, content, eventually, expect_json, expect_problem};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

async fn create_grant(api: &Api, wish: &Value) -> UploadGrant {
    expect_json(api.v1_post("/upload-grants", wish).await, 201).await
}

async fn describe_grant(api: &Api, grant: &UploadGrant) -> UploadGrant {
    expect_json(api.v1_get(&format!("/upload-grants/{}", grant.id)).await, 200).await
}

async fn revoke(api: &Api, grant: &UploadGrant) -> Response {
    api.v1(Method::DELETE, &format!("/upload-grants/{}", grant.id), None).await
}

/// The link for clients of tus.
fn tus(grant: &UploadGrant) -> String {
    grant.links.as_ref().unwrap().tus.clone()
}

/// Creates an upload by tus. With content, sends all of it in the same request.
async fn tus_create(page: &Api, url: &str, name: &str, size: usize, content: Option<&[u8]>) -> Response {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let mut creation = page.client().post(page.url(url)).header("tus-resumable", "1.0.0");
    creation = creation
        .header("upload-length", size)
        .header("upload-metadata", format!("filename {},by cGFnZQ==", BASE64_STANDARD.encode(name)));
    if let Some(content) = content {
        creation = creation.header("content-type", "application/offset+octet-stream").body(content.to_vec());
    }
    creation.send().await.unwrap()
}

/// Creates an upload by API v1.
async fn v1_create(page: &Api, grant: &UploadGrant, wish: &Value) -> Response {
    let url = page.url(&grant.links.as_ref().unwrap().uploads);
    page.client().post(url).json(wish).send().await.unwrap()
}

fn header<'r>(answer: &'r Response, name: &str) -> &'r str {
    answer.headers()[name].to_str().unwrap()
}

async fn files_of(api: &Api, grant: &UploadGrant) -> Vec<String> {
    let list: Files = expect_json(api.v1_get(&format!("/files?grant={}", grant.id)).await, 200).await;
    list.files.into_iter().map(|file| file.uid).collect()
}

#[tokio::test]
async fn a_page_uploads_with_the_link_of_a_grant() {
    let mut service = Service::start().await;
    let owner = service.with_key(&service.create_key(&["--tenant", "shop"]).await);
    let page = service.without_key();
    let wish = json!({
        "expires_in": 600, "name_prefix": "u17-", "metadata": {"user": "17", "by": "owner"},
        "content_types": ["image/*", "text/plain"], "max_size": 1000, "max_uploads": 10,
    });
    let grant = create_grant(&owner, &wish).await;
    assert_eq!((grant.state, grant.uploads), (UploadGrantState::Active, 0));

    let created = tus_create(&page, &tus(&grant), "a.png", PNG.len(), Some(PNG)).await;
    assert_eq!(created.status(), 201);
    let first = header(&created, "osproxy-uid").to_owned();
    let upload = header(&created, "location").to_owned();
    // The holder of the grant does not see the metadata that the application has set.
    let head = page.client().head(page.url(&upload)).header("tus-resumable", "1.0.0").send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert!(!head.headers().contains_key("upload-metadata"));

    let created = v1_create(&page, &grant, &json!({"name": "b.txt", "size": 5})).await;
    let second: CreatedUpload = expect_json(created, 201).await;
    assert_eq!(page.put(&second.links.as_ref().unwrap().content, b"hello").await.status(), 200);

    for (uid, name, bytes) in [(&first, "u17-a.png", PNG), (&second.uid, "u17-b.txt", b"hello")] {
        let file: File = owner.describe(uid).await;
        assert_eq!((file.name.as_str(), file.upload_grant.as_ref()), (name, Some(&grant.id)));
        assert_eq!(
            (file.metadata["user"].as_str(), file.metadata.get("by").unwrap().as_str()),
            ("17", "owner")
        );
        assert!(owner.read(uid).await == bytes);
    }
    assert_eq!(files_of(&owner, &grant).await, [first.clone(), second.uid.clone()]);
    assert_eq!(files_of(&service, &grant).await, [""; 0], "another tenant");
    assert_eq!(describe_grant(&owner, &grant).await.uploads, 2);
    let other = create_grant(&owner, &json!({})).await;
    assert_eq!(files_of(&owner, &other).await, [""; 0]);

    // The key of the application may list by prefix, and page through the files of a grant.
    let route = format!("/files?grant={}&limit=1", grant.id);
    let list: Files = expect_json(owner.v1_get(&route).await, 200).await;
    let next = list.next_cursor.unwrap();
    let list: Files = expect_json(owner.v1_get(&format!("{route}&cursor={next}")).await, 200).await;
    assert_eq!((list.files[0].uid.as_str(), list.next_cursor), (second.uid.as_str(), None));
    let other_route = format!("/files?grant={}&limit=1&cursor={next}", other.id);
    expect_problem(owner.v1_get(&other_route).await, 400, "invalid_argument").await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_grant_allows_nothing_but_what_it_says() {
    let service = Service::start().await;
    let page = service.without_key();
    let wish = json!({"content_types": ["image/*"], "max_size": 1000, "name_prefix": "p"});
    let grant = create_grant(&service, &wish).await;
    let too_large = v1_create(&page, &grant, &json!({"name": "a.png", "size": 1001})).await;
    expect_problem(too_large, 413, "too_large").await;
    assert_eq!(tus_create(&page, &tus(&grant), "a.png", 1001, None).await.status(), 413);
    // The size is not announced, and the content is too large.
    let upload: CreatedUpload =
        expect_json(v1_create(&page, &grant, &json!({"name": "a.png"})).await, 201).await;
    let url = &upload.links.as_ref().unwrap().content;
    expect_problem(page.put(url, &[7; 1001]).await, 413, "too_large").await;
    // The content is not an image.
    expect_problem(page.put(url, b"#!/bin/sh\nrm").await, 415, "unsupported_media_type").await;
    let text = tus_create(&page, &tus(&grant), "a.sh", 12, Some(b"#!/bin/sh\nrm")).await;
    expect_problem(text, 415, "unsupported_media_type").await;
    // What the client announces does not count, here or in the file.
    let disguised = json!({"name": "b.png", "content_type": "text/html"});
    let upload: CreatedUpload = expect_json(v1_create(&page, &grant, &disguised).await, 201).await;
    assert_eq!(page.put(&upload.links.as_ref().unwrap().content, PNG).await.status(), 200);
    assert_eq!(service.describe(&upload.uid).await.content_type.as_deref(), Some("image/png"));
    let disguised = json!({"name": "b.html", "content_type": "image/png"});
    let upload: CreatedUpload = expect_json(v1_create(&page, &grant, &disguised).await, 201).await;
    let refused = page.put(&upload.links.as_ref().unwrap().content, b"<!DOCTYPE html><p>").await;
    expect_problem(refused, 415, "unsupported_media_type").await;
    // In parts, too, and if the application completes the upload with links without constraints.
    let upload: CreatedUpload = expect_json(v1_create(&page, &grant, &json!({"name": "c"})).await, 201).await;
    assert_eq!(page.v1_put_part(&upload, 2, b"echo").await.status(), 204);
    let route = format!("/uploads/{}/links", upload.uid);
    let renewed: CreatedUploadLinks = expect_json(service.v1_post(&route, &json!({})).await, 201).await;
    let url = renewed.links.part.replace("{number}", "1");
    assert_eq!(page.put(&url, b"#!/bin/sh\n").await.status(), 204);
    let complete = page.client().post(page.url(&renewed.links.complete)).send().await.unwrap();
    expect_problem(complete, 415, "unsupported_media_type").await;
    // Nor is it if the tenant has it already.
    let known = service.store("a.sh", b"#!/bin/sh\nrm").await;
    let digest = service.describe(&known).await.blake3.unwrap();
    let instant = v1_create(&page, &grant, &json!({"name": "b.sh", "blake3": digest, "size": 12})).await;
    expect_problem(instant, 415, "unsupported_media_type").await;
    for wish in [
        json!({"name": "a.png", "constraints": {"max_size": 5000}}),
        json!({"name": "n".repeat(1024)}),
        json!({"name": "a.png", "metadata": {"": "x"}}),
    ] {
        expect_problem(v1_create(&page, &grant, &wish).await, 400, "invalid_argument").await;
    }
    // The links cannot be changed, and open nothing else.
    let link = &grant.links.as_ref().unwrap().uploads;
    let query = link.split_once('?').unwrap().1;
    for forged in [link.replace("expire=3600", "expire=9600"), link.replace(&grant.id, "15")] {
        let answer = page.client().post(page.url(&forged)).json(&json!({"name": "x"})).send().await.unwrap();
        expect_problem(answer, 403, "invalid_signature").await;
    }
    for incomplete in ["/api/v1/uploads?grant=5", "/api/v1/uploads?signature=x"] {
        let answer =
            page.client().post(page.url(incomplete)).json(&json!({"name": "x"})).send().await.unwrap();
        expect_problem(answer, 400, "invalid_argument").await;
    }
    for route in
        [format!("/files?{query}"), format!("/upload-grants?{query}"), format!("/upload-grants/{}", grant.id)]
    {
        assert_eq!(page.v1_get(&route).await.status(), 401, "{route}");
    }
    let upload_link = format!("/api/v1/uploads/{}/content?{}", upload.uid, query.split_once('&').unwrap().1);
    expect_problem(page.put(&upload_link, b"x").await, 403, "invalid_signature").await;
}

#[tokio::test]
async fn uploads_under_a_grant_are_counted() {
    let service = Service::start().await;
    let page = service.without_key();
    let grant = create_grant(&service, &json!({"max_uploads": 2})).await;
    let first: CreatedUpload = expect_json(v1_create(&page, &grant, &json!({"name": "a"})).await, 201).await;
    // A batch is created as a whole, or not at all.
    let batch = v1_create(&page, &grant, &json!([{"name": "b"}, {"name": "c"}])).await;
    expect_problem(batch, 403, "link_used_up").await;
    let second = tus_create(&page, &tus(&grant), "b", 5, Some(b"hello")).await;
    assert_eq!(second.status(), 201);
    expect_problem(tus_create(&page, &tus(&grant), "c", 5, None).await, 403, "link_used_up").await;
    let state = describe_grant(&service, &grant).await;
    assert_eq!((state.state, state.uploads, state.links), (UploadGrantState::UsedUp, 2, None));

    // An aborted upload does not count; a deleted file does.
    assert_eq!(page.v1_abort(&first).await.status(), 204);
    let uid = header(&second, "osproxy-uid");
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
    assert_eq!(describe_grant(&service, &grant).await.uploads, 1);
    // Nor does one that is terminated by tus, or whose first bytes could not be stored.
    let wrong = page
        .client()
        .post(page.url(&tus(&grant)))
        .header("tus-resumable", "1.0.0")
        .header("upload-length", 5)
        .header("content-type", "application/offset+octet-stream")
        .header("upload-checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=")
        .body("hello");
    assert_eq!(wrong.send().await.unwrap().status(), 460);
    assert_eq!(describe_grant(&service, &grant).await.uploads, 1);
    let third = tus_create(&page, &tus(&grant), "c", 5, None).await;
    let url = page.url(header(&third, "location"));
    let terminated = page.client().delete(&url).header("tus-resumable", "1.0.0").send().await.unwrap();
    assert_eq!(terminated.status(), 204);
    assert_eq!(describe_grant(&service, &grant).await.uploads, 1);
    // Nor does one that has expired.
    let fourth: CreatedUpload = expect_json(v1_create(&page, &grant, &json!({"name": "d"})).await, 201).await;
    assert_eq!(describe_grant(&service, &grant).await.uploads, 2);
    let year = "UPDATE files SET expires_at = expires_at - 31536000000 WHERE uid = ";
    service.sql(&format!("{year}{}", fourth.uid)).await;
    service.sql("UPDATE tasks SET run_at = 0 WHERE kind = 'expire_uploads'").await;
    eventually("the upload has expired", async || {
        (describe_grant(&service, &grant).await.uploads == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn concurrent_uploads_do_not_exceed_the_maximum() {
    let service = Service::start().await;
    let page = service.without_key();
    let grant = create_grant(&service, &json!({"max_uploads": 5})).await;
    let creations = (0..20).map(|_| tus_create_owned(page.without_key(), tus(&grant)));
    let statuses = futures_util::future::join_all(creations).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 5, "{statuses:?}");
    assert_eq!(describe_grant(&service, &grant).await.uploads, 5);
    assert_eq!(files_of(&service, &grant).await.len(), 5);
}

async fn tus_create_owned(page: Api, url: String) -> u16 {
    tus_create(&page, &url, "x", 5, None).await.status().as_u16()
}

#[tokio::test]
async fn a_revoked_grant_ends_with_its_links() {
    let service = Service::start().await;
    let owner = service.with_key(&service.create_key(&["--tenant", "shop"]).await);
    let stranger = service.with_key(&service.create_key(&["--tenant", "other"]).await);
    let reader = service.with_key(&service.create_key(&["--tenant", "shop", "--scopes", "read"]).await);
    let page = service.without_key();
    let grant = create_grant(&owner, &json!({})).await;
    let upload: CreatedUpload = expect_json(v1_create(&page, &grant, &json!({"name": "a"})).await, 201).await;
    let content_url = upload.links.as_ref().unwrap().content.clone();
    let stored: CreatedUpload = expect_json(v1_create(&page, &grant, &json!({"name": "b"})).await, 201).await;
    assert_eq!(page.put(&stored.links.as_ref().unwrap().content, b"b").await.status(), 200);

    expect_problem(revoke(&stranger, &grant).await, 404, "grant_not_found").await;
    let route = format!("/upload-grants/{}", grant.id);
    expect_problem(stranger.v1_get(&route).await, 404, "grant_not_found").await;
    expect_problem(reader.v1_get(&route).await, 403, "permission_denied").await;
    expect_problem(owner.v1_get("/upload-grants/x").await, 400, "invalid_argument").await;
    assert_eq!(revoke(&owner, &grant).await.status(), 204);
    assert_eq!(revoke(&owner, &grant).await.status(), 204, "again");

    expect_problem(v1_create(&page, &grant, &json!({"name": "c"})).await, 403, "link_revoked").await;
    expect_problem(tus_create(&page, &tus(&grant), "c", 5, None).await, 403, "link_revoked").await;
    expect_problem(page.put(&content_url, b"a").await, 403, "link_revoked").await;
    let state = describe_grant(&owner, &grant).await;
    assert_eq!((state.state, state.links), (UploadGrantState::Revoked, None));
    assert!(state.revoked_at.is_some());
    // Files stay, and the application can let an upload continue.
    assert!(owner.read(&stored.uid).await == b"b");
    let renewed: Value =
        expect_json(owner.v1_post(&format!("/uploads/{}/links", upload.uid), &json!({})).await, 201).await;
    let url = renewed["links"]["content"].as_str().unwrap();
    assert_eq!(page.put(url, b"a").await.status(), 200);
}

#[tokio::test]
async fn an_expired_grant_creates_nothing_but_its_uploads_go_on() {
    let service = Service::start().await;
    let page = service.without_key();
    let grant = create_grant(&service, &json!({"expires_in": 2})).await;
    let created = tus_create(&page, &tus(&grant), "a", 5, None).await;
    let url = header(&created, "location").to_owned();
    eventually("the grant has expired", async || {
        (tus_create(&page, &tus(&grant), "b", 5, None).await.status() == 403).then_some(())
    })
    .await;
    expect_problem(v1_create(&page, &grant, &json!({"name": "c"})).await, 403, "link_expired").await;
    assert_eq!(describe_grant(&service, &grant).await.state, UploadGrantState::Expired);
    let patch = page
        .client()
        .patch(page.url(&url))
        .header("tus-resumable", "1.0.0")
        .header("upload-offset", 0)
        .header("content-type", "application/offset+octet-stream")
        .body("hello");
    assert_eq!(patch.send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_grant_is_limited_to_networks_and_to_the_limits_of_its_key() {
    let service = Service::start().await;
    let page = service.without_key();
    let elsewhere = create_grant(&service, &json!({"networks": ["192.0.2.0/24"]})).await;
    let refused = v1_create(&page, &elsewhere, &json!({"name": "a"})).await;
    expect_problem(refused, 403, "permission_denied").await;
    assert_eq!(describe_grant(&service, &elsewhere).await.uploads, 0);
    let here = create_grant(&service, &json!({"networks": ["127.0.0.0/8", "::1"]})).await;
    let upload: CreatedUpload = expect_json(v1_create(&page, &here, &json!({"name": "a"})).await, 201).await;
    assert_eq!(page.put(&upload.links.unwrap().content, b"a").await.status(), 200);

    let small = service.with_key(&service.create_key(&["--max-size", "5"]).await);
    let grant = create_grant(&small, &json!({"max_size": 100})).await;
    assert_eq!(grant.max_size, Some(5));
    expect_problem(v1_create(&page, &grant, &json!({"name": "a", "size": 6})).await, 413, "too_large").await;
    let quota = service.with_key(&service.create_key(&["--tenant", "poor"]).await);
    let (status, output) = service.cli(&["tenant", "set", "poor", "--new", "--max-bytes", "4096"]).await;
    assert_eq!(status, 0, "{output}");
    let grant = create_grant(&quota, &json!({"max_uploads": 1})).await;
    let refused = v1_create(&page, &grant, &json!({"name": "a", "size": 5000})).await;
    expect_problem(refused, 507, "quota_exceeded").await;
    assert_eq!(describe_grant(&quota, &grant).await.uploads, 0, "nothing was stored");
}

#[tokio::test]
async fn idempotency_keys_of_grants_are_separate() {
    let service = Service::start().await;
    let page = service.without_key();
    let [one, two] = [create_grant(&service, &json!({})).await, create_grant(&service, &json!({})).await];
    let create = async |grant: &UploadGrant| -> CreatedUpload {
        let url = page.url(&grant.links.as_ref().unwrap().uploads);
        let request = page.client().post(url).header("idempotency-key", "k").json(&json!({"name": "a"}));
        expect_json(request.send().await.unwrap(), 201).await
    };
    let first = create(&one).await;
    assert_eq!(create(&one).await.uid, first.uid);
    assert_ne!(create(&two).await.uid, first.uid);
    assert_eq!(describe_grant(&service, &one).await.uploads, 1);
}

#[tokio::test]
async fn an_error_under_a_grant_can_be_repeated_with_the_same_key() {
    let service = Service::start().await;
    let page = service.without_key();
    let grant = create_grant(&service, &json!({"max_uploads": 1})).await;
    let first: CreatedUpload = expect_json(v1_create(&page, &grant, &json!({"name": "a"})).await, 201).await;
    let again = async || {
        let url = page.url(&grant.links.as_ref().unwrap().uploads);
        let request = page.client().post(url).header("idempotency-key", "k").json(&json!({"name": "b"}));
        request.send().await.unwrap()
    };
    expect_problem(again().await, 403, "link_used_up").await;
    assert_eq!(page.v1_abort(&first).await.status(), 204);
    let second: CreatedUpload = expect_json(again().await, 201).await;
    // The answer was lost in a crash before it was recorded.
    service
        .sql("UPDATE idempotency_keys SET state = 'running', status = NULL, created_at = created_at - 120000")
        .await;
    let repeated: CreatedUpload = expect_json(again().await, 201).await;
    assert_eq!(repeated.uid, second.uid);
}

#[tokio::test]
async fn grants_end_with_their_key_and_other_keys_do_not_see_their_links() {
    let service = Service::start().await;
    let page = service.without_key();
    let creator = service.create_key(&["--label", "creator", "--scopes", "upload"]).await;
    let creator = service.with_key(&creator);
    let other = service.with_key(&service.create_key(&["--scopes", "upload", "--max-size", "5"]).await);
    let grant = create_grant(&creator, &json!({"metadata": {"internal": "x"}})).await;
    assert!(grant.links.is_some() && grant.metadata.is_some());
    let seen = describe_grant(&other, &grant).await;
    assert_eq!((seen.state, seen.links, seen.metadata), (UploadGrantState::Active, None, None));
    assert_eq!(describe_grant(&creator, &grant).await.links, grant.links);
    assert_eq!(describe_grant(&service, &grant).await.links, grant.links, "a key with the scope `admin`");

    let upload: CreatedUpload = expect_json(v1_create(&page, &grant, &json!({"name": "a"})).await, 201).await;
    // What the application adds later is not shown either.
    let route = format!("/files/{}", upload.uid);
    let patch = json!({"metadata": {"flagged": "yes"}});
    assert_eq!(service.v1(Method::PATCH, &route, Some(&patch)).await.status(), 200);
    let url = page.url(&upload.links.as_ref().unwrap().tus);
    let head = page.client().head(url).header("tus-resumable", "1.0.0").send().await.unwrap();
    assert!(!head.headers().contains_key("upload-metadata"));

    let id = creator.key().unwrap().split('_').nth(1).unwrap();
    assert_eq!(service.cli(&["key", "revoke", id]).await.0, 0);
    eventually("the grant has ended", async || {
        let refused = page.put(&upload.links.as_ref().unwrap().content, b"").await;
        (refused.status() == 403).then_some(())
    })
    .await;
    expect_problem(v1_create(&page, &grant, &json!({"name": "b"})).await, 403, "link_revoked").await;
}

#[tokio::test]
async fn known_content_need_not_be_sent_under_a_grant() {
    let service = Service::start().await;
    let page = service.without_key();
    let bytes = content(5, 100_000);
    let known = service.store("known.bin", &bytes).await;
    let digest = service.describe(&known).await.blake3.unwrap();
    let grant = create_grant(&service, &json!({"max_uploads": 1})).await;
    let wish = json!({"name": "copy.bin", "size": bytes.len(), "blake3": digest});
    let upload: CreatedUpload = expect_json(v1_create(&page, &grant, &wish).await, 201).await;
    assert_eq!(upload.state, CreatedState::Stored);
    assert!(service.read(&upload.uid).await == bytes);
    assert_eq!(files_of(&service, &grant).await, [upload.uid]);
    expect_problem(v1_create(&page, &grant, &wish).await, 403, "link_used_up").await;
}

#[tokio::test]
async fn grants_are_listed_and_bad_ones_are_not_created() {
    let service = Service::start().await;
    let owner = service.with_key(&service.create_key(&["--tenant", "shop"]).await);
    let mut created = Vec::new();
    for _ in 0..3 {
        created.push(create_grant(&owner, &json!({})).await.id);
    }
    created.reverse();
    create_grant(&service, &json!({})).await;
    let page: UploadGrants = expect_json(owner.v1_get("/upload-grants?limit=2").await, 200).await;
    let cursor = page.next_cursor.unwrap();
    let route = format!("/upload-grants?limit=2&cursor={cursor}");
    let rest: UploadGrants = expect_json(owner.v1_get(&route).await, 200).await;
    let ids: Vec<_> = page.grants.into_iter().chain(rest.grants).map(|grant| grant.id).collect();
    assert_eq!((ids, rest.next_cursor), (created, None));
    for (wish, field) in [
        (json!({"expires_in": 0}), "expires_in"),
        (json!({"max_uploads": 0}), "max_uploads"),
        (json!({"content_types": ["image"]}), "content_types"),
        (json!({"content_types": vec!["a/b"; 17]}), "content_types"),
        (json!({"networks": ["here"]}), "networks"),
        (json!({"name_prefix": "a/b"}), "name_prefix"),
        (json!({"name_prefix": "n".repeat(256)}), "name_prefix"),
        (json!({"metadata": {"": "x"}}), "metadata"),
        (json!({"uploads": 5}), "uploads"),
    ] {
        let problem =
            expect_problem(owner.v1_post("/upload-grants", &wish).await, 400, "invalid_argument").await;
        assert_eq!(problem["field"], field, "{wish}");
    }
    let page: UploadGrants = expect_json(owner.v1_get("/upload-grants").await, 200).await;
    assert_eq!(page.grants.len(), 3);
}

#[tokio::test]
async fn partial_uploads_count_until_they_are_concatenated() {
    let mut service = Service::start().await;
    let page = service.without_key();
    let grant = create_grant(&service, &json!({"max_uploads": 2, "name_prefix": "p-"})).await;
    let partial = async |bytes: &'static [u8]| {
        let creation = page.client().post(page.url(&tus(&grant))).header("tus-resumable", "1.0.0");
        let creation = creation.header("upload-concat", "partial").header("upload-length", bytes.len());
        creation.header("content-type", "application/offset+octet-stream").body(bytes).send().await.unwrap()
    };
    let concatenate = async |urls: String| {
        let creation = page.client().post(page.url(&tus(&grant))).header("tus-resumable", "1.0.0");
        creation.header("upload-concat", format!("final;{urls}")).send().await.unwrap()
    };
    let [one, two] = [partial(b"hello ").await, partial(b"world").await];
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (201, 201));
    expect_problem(partial(b"x").await, 403, "link_used_up").await;
    // Under a grant, the URLs of partial uploads must be signed.
    let unsigned = format!("/tus/{} /tus/{}", header(&one, "osproxy-uid"), header(&two, "osproxy-uid"));
    expect_problem(concatenate(unsigned).await, 400, "invalid_argument").await;
    let done = concatenate(format!("{} {}", header(&one, "location"), header(&two, "location"))).await;
    assert_eq!(done.status(), 201);
    let uid = header(&done, "osproxy-uid").to_owned();
    assert_eq!(service.read(&uid).await, b"hello world");
    assert_eq!(service.describe(&uid).await.name, "p-file");
    assert_eq!(describe_grant(&service, &grant).await.uploads, 1);
    assert_eq!(files_of(&service, &grant).await, [uid]);
    assert_eq!(partial(b"x").await.status(), 201);
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_grants_of_a_tenant_are_limited() {
    let service = Service::start_with(&[("LIMITS__MAX_TENANT_UPLOAD_GRANTS", "2")]).await;
    let other = service.with_key(&service.create_key(&["--tenant", "other"]).await);
    let first = create_grant(&service, &json!({})).await;
    create_grant(&service, &json!({})).await;
    let refused = async |api: &Api| {
        expect_problem(api.v1_post("/upload-grants", &json!({})).await, 507, "quota_exceeded").await;
    };
    refused(&service).await;
    let (code, said) = service.cli(&["upload-grant", "create"]).await;
    assert!(code == 1 && said.contains("at most 2 active upload grants"), "{said}");
    let list: UploadGrants = expect_json(service.v1_get("/upload-grants").await, 200).await;
    assert_eq!(list.grants.len(), 2);
    create_grant(&other, &json!({})).await;
    // Grants that have ended make room.
    assert_eq!(revoke(&service, &first).await.status(), 204);
    let third = create_grant(&service, &json!({})).await;
    refused(&service).await;
    service.sql(&format!("UPDATE upload_grants SET expires_at = 1 WHERE id = {}", third.id)).await;
    create_grant(&service, &json!({})).await;
    refused(&service).await;
}

#[tokio::test]
async fn operators_manage_grants_on_the_command_line() {
    let settings = [("SERVER__PUBLIC_URL", "https://files.example/")];
    let service = Service::start_with(&settings).await;
    let owner = service.with_key(&service.create_key(&["--tenant", "shop"]).await);
    let json = async |arguments: &[&str]| -> Value {
        let (code, said) = service.cli(&[&["upload-grant"], arguments, &["--json"]].concat()).await;
        assert_eq!(code, 0, "{said}");
        serde_json::from_str(said.trim_end()).unwrap()
    };
    let properties = [
        &["create", "--tenant", "shop", "--expires-in", "2h", "--max-uploads", "1", "--max-size", "1KiB"][..],
        &["--content-type", "image/png", "--content-type", "application/pdf", "--network", "127.0.0.0/8"],
        &["--network", "::1", "--name-prefix", "u17-", "--metadata", "user=17", "--metadata", "note=a=b"],
    ];
    let grant = json(&properties.concat()).await;
    let id = grant["id"].as_str().unwrap();
    assert_eq!(
        (&grant["state"], &grant["tenant"], &grant["max_size"]),
        (&json!("active"), &json!("shop"), &json!(1024))
    );
    assert_eq!(grant["expires_at"].as_i64().unwrap() - grant["created_at"].as_i64().unwrap(), 2 * 3_600_000);
    // It is a grant like any other.
    let seen: UploadGrant = expect_json(owner.v1_get(&format!("/upload-grants/{id}")).await, 200).await;
    assert_eq!((seen.state, seen.max_uploads, seen.links), (UploadGrantState::Active, Some(1), None));
    assert_eq!(seen.networks, ["127.0.0.0/8", "::1/128"]);
    assert_eq!(json(&["show", id]).await, grant);
    let page = service.without_key();
    let link = grant["links"]["tus"].as_str().unwrap().strip_prefix("https://files.example").unwrap();
    assert_eq!(tus_create(&page, link, "a.sh", 12, Some(b"#!/bin/sh\nrm")).await.status(), 415);
    let created = tus_create(&page, link, "a.png", PNG.len(), Some(PNG)).await;
    assert_eq!(created.status(), 201);
    let file: File = owner.describe(header(&created, "osproxy-uid")).await;
    assert_eq!((&*file.name, file.upload_grant.as_deref()), ("u17-a.png", Some(id)));
    assert_eq!((&*file.metadata["user"], &*file.metadata["note"]), ("17", "a=b"));
    assert_eq!(json(&["show", id]).await["state"], "used_up");

    // The newest is first, and other tenants have others.
    let second = create_grant(&owner, &json!({"name_prefix": "line\n"})).await;
    let (code, said) = service.cli(&["upload-grant", "ls", "--tenant", "shop"]).await;
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{said}");
    assert!(lines[1].starts_with(&second.id) && lines[1].ends_with("line\\n"), "{said}");
    let key = owner.key().unwrap().split('_').nth(1).unwrap();
    assert!(lines[1].contains(key) && lines[2].contains("used_up"), "{said}");
    let newest = json(&["ls", "--tenant", "shop", "--limit", "1"]).await;
    assert_eq!((&newest["id"], newest.get("links")), (&json!(second.id), None));
    assert_eq!(service.cli(&["upload-grant", "ls"]).await, (0, "none\n".to_owned()));

    // Its links end as well.
    let (code, said) = service.cli(&["upload-grant", "show", &second.id]).await;
    assert!(
        code == 0 && said.contains("links.uploads  https://files.example/api/v1/uploads?grant="),
        "{said}"
    );
    assert_eq!(
        service.cli(&["upload-grant", "revoke", &second.id]).await,
        (0, format!("upload grant {} is revoked\n", second.id))
    );
    eventually("the link is rejected", async || {
        (v1_create(&page, &second, &json!({"name": "c"})).await.status() == 403).then_some(())
    })
    .await;
    let (code, said) = service.cli(&["upload-grant", "show", &second.id]).await;
    assert!(code == 0 && said.contains("revoked") && !said.contains("links"), "{said}");

    for (arguments, code, complaint) in [
        (&["revoke", &*second.id][..], 1, "is already revoked"),
        (&["revoke", "5"], 1, "there is no upload grant 5"),
        (&["show", "5"], 1, "there is no upload grant 5"),
        (&["show", "x"], 2, "a positive decimal number"),
        (&["create", "--tenant", "shpo"], 1, "the tenant shpo has no key, file or quota"),
        (&["create", "--expires-in", "1500ms"], 2, "a whole number of seconds"),
        (&["create", "--expires-in", "2y"], 1, "the lifetime of a link"),
        (&["create", "--metadata", "x"], 2, "KEY=VALUE"),
        (&["create", "--content-type", "image"], 1, "`content_types` must"),
        (&["create", "--max-uploads", "0"], 1, "`max_uploads` must"),
    ] {
        let said = service.cli(&[&["upload-grant"], arguments].concat()).await;
        assert!(said.0 == code && said.1.contains(complaint), "{arguments:?}: {said:?}");
    }
    assert_eq!(service.sql("SELECT count(*) FROM upload_grants").await, ["2"]);
}
