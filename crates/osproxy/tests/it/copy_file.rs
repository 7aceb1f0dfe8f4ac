use osproxy_api::v1::{CreatedLink, File, FileState};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{Service, content, expect_json, expect_problem, md5_hex};

async fn copy(service: &Service, uid: &str, body: &Value) -> Response {
    service.v1_post(&format!("/files/{uid}/copy"), body).await
}

#[tokio::test]
async fn a_copy_shares_bytes_and_outlives_its_source() {
    let mut service = Service::start().await;
    let bytes = content(1, 10_000);
    let uid = service.store("x.bin", &bytes).await;
    let noted = json!({"metadata": {"a": "1"}});
    assert_eq!(service.v1(Method::PATCH, &format!("/files/{uid}"), Some(&noted)).await.status(), 200);
    let answer = copy(&service, &uid, &json!({})).await;
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let same: File = expect_json(answer, 201).await;
    assert_eq!(location, format!("/api/v1/files/{}", same.uid));
    let described: File = expect_json(service.get(&location).await, 200).await;
    assert_eq!(described, same);
    assert_eq!((same.name.as_str(), same.state, same.size), ("x.bin", FileState::Stored, Some(10_000)));
    assert_eq!(same.metadata["a"], "1");
    let other: File =
        expect_json(copy(&service, &same.uid, &json!({"name": "y.json", "metadata": {}})).await, 201).await;
    assert_eq!((other.name.as_str(), other.content_type.as_deref()), ("y.json", Some("application/json")));
    assert!(other.metadata.is_empty());
    assert_eq!(service.objects().len(), 1);
    for uid in [&uid, &same.uid] {
        assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
    }
    assert!(service.read(&other.uid).await == bytes);
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{}", other.uid), None).await.status(), 204);
    service.database().wait_until_idle().await;
    assert!(service.objects().is_empty());
    service.assert_consistent().await;
}

#[tokio::test]
async fn what_lies_in_parts_is_copied_too_and_merged_once_for_both() {
    let mut service = Service::start_with(&[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
    service.database().hold_merges().await;
    let bytes = content(1, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 40_000).await;
    let same: File = expect_json(copy(&service, &uid, &json!({})).await, 201).await;
    assert!(service.read(&same.uid).await == bytes);
    // If the claimed digest proves false, both files are corrupt.
    let link = service.upload_link("false.bin").await;
    service.put_parts(&link, &[b"one", b"two"]).await;
    assert_eq!(
        service.put(&format!("{}&num=2&size=6&md5={:032}", link.url.multi.merge, 0), b"").await.status(),
        200
    );
    let false_copy: File = expect_json(copy(&service, &link.uid, &json!({})).await, 201).await;
    service.database().release_merges().await;
    service.wait_until_merged(&uid).await;
    assert!(service.read(&same.uid).await == bytes);
    crate::support::eventually("both are corrupt", async || {
        let corrupt = "SELECT count(*) FROM files WHERE state = 'corrupt'";
        (service.sql(corrupt).await == ["2"]).then_some(())
    })
    .await;
    expect_problem(copy(&service, &false_copy.uid, &json!({})).await, 410, "file_corrupt").await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_and_the_end_of_its_source_do_not_both_happen() {
    let mut service = Service::start().await;
    let mut kept = 0;
    for round in 0..30 {
        let bytes = content(round, 5_000);
        let uid = service.store("x.bin", &bytes).await;
        let route = format!("/files/{uid}");
        let copies =
            futures_util::future::join_all((0..3).map(|_| async { copy(&service, &uid, &json!({})).await }));
        let (copies, deleted) =
            futures_util::future::join(copies, service.v1(Method::DELETE, &route, None)).await;
        assert_eq!(deleted.status(), 204);
        for answer in copies {
            if answer.status() == 201 {
                kept += 1;
                let copy: File = answer.json().await.unwrap();
                assert!(service.read(&copy.uid).await == bytes);
            } else {
                expect_problem(answer, 410, "file_gone").await;
            }
        }
    }
    println!("{kept} of 90 copies succeeded");
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn bad_input_is_refused_and_makes_nothing() {
    let service = Service::start().await;
    let uid = service.store("x.txt", b"x").await;
    for (body, field) in [
        (json!({"name": ""}), "name"),
        (json!({"name": "x".repeat(5000)}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"nam": "x"}), "nam"),
        (json!({"metadata": {"a": null}}), "metadata.a"),
        (json!({"metadata": {"": "x"}}), "metadata"),
    ] {
        let told = expect_problem(copy(&service, &uid, &body).await, 400, "invalid_argument").await;
        assert_eq!(told["field"], field, "{body}: {told}");
    }
    let url = service.url(&format!("/api/v1/files/{uid}/copy"));
    expect_problem(service.client().post(url).send().await.unwrap(), 415, "unsupported_media_type").await;
    expect_problem(copy(&service, "1", &json!({})).await, 404, "file_not_found").await;
    let pending = service.upload_link("x.txt").await.uid;
    expect_problem(copy(&service, &pending, &json!({})).await, 409, "not_stored").await;
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["2"]);
}

/// Copies a file under an idempotency key.
async fn keyed(service: &Service, uid: &str, key: &str, body: &Value) -> Response {
    let url = service.url(&format!("/api/v1/files/{uid}/copy"));
    service.client().post(url).header("idempotency-key", key).json(body).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_key_a_copy_is_made_once() {
    let mut service = Service::start().await;
    let uid = service.store("x.txt", b"x").await;
    let first = keyed(&service, &uid, "one", &json!({})).await;
    assert!(!first.headers().contains_key("idempotency-replayed"));
    let location = first.headers()["location"].clone();
    let made: File = expect_json(first, 201).await;
    service.kill_and_restart().await;
    let again = keyed(&service, &uid, "one", &json!({})).await;
    assert_eq!(
        (&again.headers()["idempotency-replayed"], &again.headers()["location"]),
        (&"true".parse().unwrap(), &location)
    );
    assert_eq!(again.headers()["content-type"], "application/json");
    assert_eq!(expect_json::<File>(again, 201).await, made);
    expect_problem(keyed(&service, &uid, "one", &json!({"name": "y"})).await, 422, "key_reused").await;
    expect_problem(keyed(&service, &made.uid, "one", &json!({})).await, 422, "key_reused").await;
    // An error is replayed too.
    let refused = expect_problem(keyed(&service, "1", "two", &json!({})).await, 404, "file_not_found").await;
    let again = keyed(&service, "1", "two", &json!({})).await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.headers()["osproxy-error"], "file_not_found");
    assert_eq!(again.json::<Value>().await.unwrap(), refused);
    // A request that could not be parsed does not use its key.
    expect_problem(keyed(&service, &uid, "three", &json!({"name": 5})).await, 400, "invalid_argument").await;
    assert_eq!(keyed(&service, &uid, "three", &json!({"name": "z"})).await.status(), 201);
    for key in ["", &"k".repeat(256), "a b"] {
        let told =
            expect_problem(keyed(&service, &uid, key, &json!({})).await, 400, "invalid_argument").await;
        assert_eq!(told["field"], "idempotency-key");
    }
    let many = futures_util::future::join_all(
        (0..10).map(|_| async { keyed(&service, &uid, "many", &json!({})).await }),
    );
    let mut made = std::collections::HashSet::new();
    for answer in many.await {
        if answer.status() == 201 {
            made.insert(answer.json::<File>().await.unwrap().uid);
        } else {
            expect_problem(answer, 409, "in_progress").await;
        }
    }
    assert_eq!(made.len(), 1);
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["4"]);
    // The same for links.
    let url = service.url(&format!("/api/v1/files/{uid}/links"));
    let link = async || {
        let request = service.client().post(&url).header("idempotency-key", "link");
        request.json(&json!({"expires_in": 60})).send().await.unwrap()
    };
    let (first, second) = (link().await, link().await);
    let first: CreatedLink = expect_json(first, 201).await;
    assert_eq!(second.headers()["idempotency-replayed"], "true");
    assert_eq!(expect_json::<CreatedLink>(second, 201).await.url, first.url);
}

#[tokio::test]
async fn a_key_whose_request_failed_or_was_lost_is_free_again() {
    let service = Service::start().await;
    let uid = service.store("x.txt", b"x").await;
    service.database().reject_changes("no_files", "BEFORE INSERT", "files", "NEW.uid > 0").await;
    expect_problem(keyed(&service, &uid, "one", &json!({})).await, 503, "unavailable").await;
    service.database().allow_changes("no_files", "files").await;
    let made: File = expect_json(keyed(&service, &uid, "one", &json!({})).await, 201).await;
    // The row that a process leaves when it dies in the middle.
    service.sql("UPDATE idempotency_keys SET state = 'running', owner = 'dead'").await;
    expect_problem(keyed(&service, &uid, "one", &json!({})).await, 409, "in_progress").await;
    service.sql("UPDATE idempotency_keys SET created_at = created_at - 61000").await;
    let again: File = expect_json(keyed(&service, &uid, "one", &json!({})).await, 201).await;
    assert_eq!(again.uid, made.uid, "the copy already exists");
    // A key expires after a day, whatever its state.
    service.sql("UPDATE idempotency_keys SET created_at = created_at - 86400001").await;
    assert_eq!(keyed(&service, &uid, "one", &json!({"name": "new"})).await.status(), 201);
    service.sql("UPDATE idempotency_keys SET created_at = created_at - 86400001").await;
    service.sql("UPDATE tasks SET run_at = 0 WHERE kind = 'sweep'").await;
    let mut service = service;
    service.kill_and_restart().await;
    crate::support::eventually("the key is swept", async || {
        (service.sql("SELECT count(*) FROM idempotency_keys").await == ["0"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_that_may_create_small_files_gets_no_large_one_of_content_that_is_there() {
    let service = Service::start().await;
    let all = service.with_key(&service.create_key(&[]).await);
    let small = service.with_key(&service.create_key(&["--max-size", "1000"]).await);
    let bytes = content(1, 1001);
    let (uid, md5) = (all.store("x.bin", &bytes).await, md5_hex(&bytes));
    expect_problem(small.v1_post(&format!("/files/{uid}/copy"), &json!({})).await, 413, "too_large").await;
    expect_problem(small.v1_post("/uploads", &json!({"name": "y.bin", "md5": md5})).await, 413, "too_large")
        .await;
    let sized = json!({"name": "y.bin", "size": bytes.len(), "md5": md5});
    expect_problem(small.v1_post("/uploads", &sized).await, 413, "too_large").await;
    assert_eq!(
        small.instant_upload(&[(&md5, "y.bin")]).await[0].uid,
        "",
        "the content must be sent, and exceeds the limit"
    );
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["1"]);
    // Content below the limit is found.
    let bytes = content(2, 1000);
    let (uid, md5) = (all.store("x.bin", &bytes).await, md5_hex(&bytes));
    assert_eq!(small.v1_post(&format!("/files/{uid}/copy"), &json!({})).await.status(), 201);
    assert_ne!(small.instant_upload(&[(&md5, "y.bin")]).await[0].uid, "");
}
