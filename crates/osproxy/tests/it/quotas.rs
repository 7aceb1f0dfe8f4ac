//! Quotas of tenants: never exceeded, and released when files go.

use std::time::Duration;

use futures_util::future::join_all;
use osproxy_api::v1::{CreatedState, CreatedUpload};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{
    Api, Service, content, eventually, expect_json, expect_problem, expect_v0_error, md5_hex,
};

/// Sets the quota of a tenant, and returns a client with a key of it.
async fn tenant(service: &Service, name: &str, max_bytes: &str) -> Api {
    set(service, name, max_bytes).await;
    service.with_key(&service.create_key(&["--tenant", name]).await)
}

async fn set(service: &Service, name: &str, max_bytes: &str) {
    let (code, said) = service.cli(&["tenant", "set", name, "--new", "--max-bytes", max_bytes]).await;
    assert_eq!(code, 0, "{said}");
}

/// Bytes of content charged to a tenant.
async fn used(service: &Service, name: &str) -> u64 {
    let all = used_with_records(service, name).await;
    let records = service.sql(&format!("SELECT record_bytes FROM files WHERE tenant = '{name}'")).await;
    all - records.iter().map(|bytes| bytes.parse::<u64>().unwrap()).sum::<u64>()
}

/// Bytes charged to a tenant, including its file rows.
async fn used_with_records(service: &Service, name: &str) -> u64 {
    let (code, said) = service.cli(&["tenant", "ls", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.into_iter().find(|line| line["tenant"] == name).unwrap()["used"].as_u64().unwrap()
}

async fn remove(api: &Api, uid: &str) {
    assert_eq!(api.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
}

async fn create_upload(api: &Api, size: usize) -> Response {
    api.v1_post("/uploads", &json!({"name": "x.bin", "size": size})).await
}

async fn over_quota(answer: Response) {
    let _: Value = expect_problem(answer, 507, "quota_exceeded").await;
}

#[tokio::test]
async fn a_full_tenant_under_20_parallel_uploads_never_has_more_than_its_quota() {
    let service = Service::start().await;
    let small = tenant(&service, "small", "1MB").await;
    let large = service.with_key(&service.create_key(&["--tenant", "large"]).await);
    let upload = async |seed: u64| {
        let bytes = content(seed, 100_000);
        // As a whole, in parts of unannounced size, and with an announced size.
        let status = match seed % 3 {
            0 => {
                let link = small.upload_link("x.bin").await;
                small.put(&link.url.single, &bytes).await.status()
            }
            1 => {
                let link = small.upload_link("x.bin").await;
                let mut status = 200;
                for (number, part) in (1..).zip(bytes.chunks(40_000)) {
                    status = status.max(small.put_part(&link, number, part).await.status().as_u16());
                }
                if status == 200 {
                    small.merge(&link, 3, &bytes).await.status()
                } else {
                    status.try_into().unwrap()
                }
            }
            _ => match create_upload(&small, bytes.len()).await {
                created if created.status() == 201 => {
                    let upload: CreatedUpload = expect_json(created, 201).await;
                    assert_eq!(small.v1_put_part(&upload, 1, &bytes).await.status(), 204);
                    small.v1_complete(&upload).await.status()
                }
                refused => refused.status(),
            },
        };
        assert!([200, 507].contains(&status.as_u16()), "{status}");
        status == 200
    };
    let watched = async {
        for _ in 0..20 {
            let charged = service.sql("SELECT charged FROM files WHERE tenant = 'small'").await;
            let sum: u64 = charged.iter().map(|bytes| bytes.parse::<u64>().unwrap()).sum();
            assert!(sum <= 1_000_000, "{charged:?}");
        }
    };
    let (stored, ()) = tokio::join!(join_all((0..20).map(upload)), watched);
    let stored = stored.into_iter().filter(|is_stored| *is_stored).count();
    // Parts of uploads that were refused in the middle count as well.
    assert!((4..=10).contains(&stored), "{stored}");
    service.database().wait_until_idle().await;
    // Uploads that were refused after their first parts stay until they expire, and count.
    assert_eq!(service.sql("SELECT id FROM blobs WHERE state = 'stored'").await.len(), stored);
    assert!(used(&service, "small").await <= 1_000_000);
    // Other tenants are not affected.
    large.store("x.bin", &content(50, 2_000_000)).await;
}

#[tokio::test]
async fn what_is_announced_is_reserved_and_given_back_when_the_upload_ends() {
    let mut service =
        Service::start_with(&[("UPLOADS__EXPIRED_RETENTION", "0"), ("TASKS__LEASE", "3")]).await;
    let api = tenant(&service, "a", "1MB").await;
    let first: CreatedUpload = expect_json(create_upload(&api, 600_000).await, 201).await;
    over_quota(create_upload(&api, 600_000).await).await;
    over_quota(api.v1_post("/uploads", &json!({"name": "x", "size": 1_u64 << 39})).await).await;
    assert_eq!(api.v1_abort(&first).await.status(), 204);
    let brief = json!({"name": "x.bin", "size": 600_000, "expires_in": 1});
    let _: CreatedUpload = expect_json(api.v1_post("/uploads", &brief).await, 201).await;
    // Expired uploads are looked for every minute, and at every start.
    service.kill().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    service.restart().await;
    let api = service.with_key(&service.create_key(&["--tenant", "a"]).await);
    eventually("it has expired", async || (used(&service, "a").await == 0).then_some(())).await;
    let second: CreatedUpload = expect_json(create_upload(&api, 600_000).await, 201).await;
    assert_eq!(used(&service, "a").await, 600_000);
    // Sent whole, it is not charged twice.
    let bytes = content(1, 600_000);
    assert_eq!(api.put(&second.links.as_ref().unwrap().content, &bytes).await.status(), 200);
    assert_eq!(used(&service, "a").await, 600_000);
    over_quota(create_upload(&api, 500_000).await).await;
    remove(&api, &second.uid).await;
    assert_eq!(used(&service, "a").await, 0);
}

#[tokio::test]
async fn parts_that_nobody_announced_count_as_they_come_and_once() {
    let service = Service::start().await;
    let api = tenant(&service, "a", "1MB").await;
    let bytes = content(1, 900_000);
    let parts: Vec<_> = bytes.chunks(300_000).collect();
    let link = api.upload_link("x.bin").await;
    for _ in 0..3 {
        assert_eq!(api.put_part(&link, 1, parts[0]).await.status(), 200);
    }
    assert_eq!(used(&service, "a").await, 300_000);
    assert_eq!(api.put_part(&link, 1, &parts[0][..100_000]).await.status(), 200);
    assert_eq!(used(&service, "a").await, 100_000);
    api.put_parts(&link, &parts).await;
    let message = expect_v0_error(api.put_part(&link, 4, parts[0]).await, 507).await;
    assert!(message.contains("delete files to free space"), "{message}");
    assert_eq!(api.checkpoint(&link.uid).await, [1, 2, 3], "a refused upload left a row");
    assert_eq!(api.merge(&link, 3, &bytes).await.status(), 200);
    service.database().wait_until_idle().await;
    assert_eq!(used(&service, "a").await, 900_000);
    assert!(api.read(&link.uid).await == bytes);
    let other = api.upload_link("x.bin").await;
    expect_v0_error(api.put(&other.url.single, &content(2, 200_000)).await, 507).await;
    // A body of unknown length is charged at the end.
    let body = futures_util::stream::iter(vec![Ok::<_, std::io::Error>(content(2, 200_000))]);
    let url = api.url(&other.url.single);
    let sent = api.client().put(url).body(reqwest::Body::wrap_stream(body)).send().await.unwrap();
    expect_v0_error(sent, 507).await;
    assert_eq!(used(&service, "a").await, 900_000);
    service.database().wait_until_idle().await;
    assert_eq!(service.sql("SELECT id FROM blobs").await.len(), 1, "a refused upload left a row");
}

#[tokio::test]
async fn copies_and_instant_uploads_count_as_files_of_their_own() {
    let service = Service::start().await;
    let api = tenant(&service, "a", "1MB").await;
    let bytes = content(1, 400_000);
    let uid = api.store("x.bin", &bytes).await;
    let md5 = md5_hex(&bytes);
    assert_ne!(api.instant_upload(&[(&md5, "y.bin")]).await[0].uid, "");
    assert_eq!(used(&service, "a").await, 800_000);
    over_quota(api.v1_post(&format!("/files/{uid}/copy"), &json!({})).await).await;
    let resume = json!({"data": [{"md5": md5, "path": "z.bin"}]});
    expect_v0_error(api.post("/resume", &resume).await, 507).await;
    let wish = json!({"name": "x", "size": bytes.len(), "md5": md5});
    over_quota(api.v1_post("/uploads", &wish).await).await;
    set(&service, "a", "none").await;
    assert_eq!(api.create_upload(&wish).await.state, CreatedState::Stored);
    assert_eq!(api.v1_post(&format!("/files/{uid}/copy"), &json!({})).await.status(), 201);
    assert_eq!(used(&service, "a").await, 1_600_000);
}

#[tokio::test]
async fn content_that_turns_out_to_be_another_is_given_back() {
    let service = Service::start_with(&[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
    let api = tenant(&service, "a", "1MB").await;
    let link = api.upload_link("x.bin").await;
    let bytes = content(1, 800_000);
    for (number, part) in (1..).zip(bytes.chunks(400_000)) {
        assert_eq!(api.put_part(&link, number, part).await.status(), 200);
    }
    // The expected md5 is false.
    assert_eq!(api.merge(&link, 2, &content(2, 800_000)).await.status(), 200);
    eventually("the mismatch is detected", async || (used(&service, "a").await == 0).then_some(())).await;
    api.store("x.bin", &bytes).await;
}

#[tokio::test]
async fn a_quota_counts_what_was_there_before_it() {
    let mut service = Service::start().await;
    let api = service.with_key(&service.create_key(&["--tenant", "a"]).await);
    let uid = api.store("x.bin", &content(1, 700_000)).await;
    let _: CreatedUpload = expect_json(create_upload(&api, 200_000).await, 201).await;
    // As left by versions that did not charge files.
    service.sql("UPDATE files SET charged = 0 WHERE state = 'stored'").await;
    set(&service, "a", "1MB").await;
    assert_eq!(used(&service, "a").await, 900_000);
    over_quota(create_upload(&api, 200_000).await).await;
    // A quota below the usage keeps what is stored, and admits nothing new.
    set(&service, "a", "100kB").await;
    over_quota(create_upload(&api, 1).await).await;
    service.kill().await;
    service.restart().await;
    let api = service.with_key(&service.create_key(&["--tenant", "a"]).await);
    over_quota(create_upload(&api, 1).await).await;
    assert_eq!(api.read(&uid).await.len(), 700_000);
    remove(&api, &uid).await;
    assert_eq!(used(&service, "a").await, 200_000);
    let (code, said) = service.cli(&["tenant", "set", "A b", "--max-bytes", "1MB"]).await;
    assert_ne!(code, 0, "{said}");
}

#[tokio::test]
async fn names_and_metadata_count_and_are_given_back() {
    let service = Service::start().await;
    let api = tenant(&service, "a", "50kB").await;
    let noted = json!({"name": "x".repeat(1000), "metadata": {"a": "v".repeat(4096), "b": "v".repeat(4096)}});
    let mut uploads = Vec::new();
    loop {
        let answer = api.v1_post("/uploads", &noted).await;
        if answer.status() == 507 {
            over_quota(answer).await;
            break;
        }
        uploads.push(expect_json::<CreatedUpload>(answer, 201).await);
        assert!(uploads.len() < 6, "50 kB are less than 6 times 9 kB");
    }
    assert_eq!(uploads.len(), 5);
    assert_eq!(service.sql("SELECT uid FROM files").await.len(), 5, "a refused upload left a row");
    // Neither renames nor copies nor empty files can exceed the quota.
    let empty = api.put(&uploads[0].links.as_ref().unwrap().content, b"").await;
    assert_eq!(empty.status(), 200);
    let uid = &uploads[0].uid;
    over_quota(api.v1_post(&format!("/files/{uid}/copy"), &json!({})).await).await;
    let patch = async |patch: Value| {
        api.client()
            .patch(api.url(&format!("/api/v1/files/{uid}")))
            .header("content-type", "application/merge-patch+json")
            .json(&patch)
            .send()
            .await
            .unwrap()
    };
    over_quota(patch(json!({"metadata": {"c": "v".repeat(4096)}})).await).await;
    assert_eq!(patch(json!({"metadata": {"a": null}})).await.status(), 200, "removing metadata was refused");
    assert_eq!(patch(json!({"metadata": {"c": "v".repeat(4000)}})).await.status(), 200);
    for upload in &uploads {
        remove(&api, &upload.uid).await;
    }
    assert_eq!(used_with_records(&service, "a").await, 0);
    assert_eq!(api.v1_post("/uploads", &noted).await.status(), 201);
}

#[tokio::test]
async fn a_tenant_has_no_more_open_uploads_than_it_may() {
    let service = Service::start_with(&[("LIMITS__MAX_TENANT_UPLOADS", "3")]).await;
    let (one, other) = (
        service.with_key(&service.create_key(&["--tenant", "one"]).await),
        service.with_key(&service.create_key(&["--tenant", "other"]).await),
    );
    let first = one.create_upload(&json!({"name": "x"})).await;
    let links = one.upload_links(&["a", "b"]).await;
    over_quota(one.v1_post("/uploads", &json!({"name": "x"})).await).await;
    expect_v0_error(one.post("/link/upload", &json!({"filePath": ["a"], "expire": 600})).await, 507).await;
    other.create_upload(&json!({"name": "x"})).await;
    // Completed and aborted uploads no longer count.
    assert_eq!(one.put(&links[0].url.single, b"a").await.status(), 200);
    assert_eq!(one.v1_abort(&first).await.status(), 204);
    for _ in 0..2 {
        eventually("another upload is admitted", async || {
            (one.v1_post("/uploads", &json!({"name": "x"})).await.status() == 201).then_some(())
        })
        .await;
    }
    over_quota(one.v1_post("/uploads", &json!({"name": "x"})).await).await;
}
