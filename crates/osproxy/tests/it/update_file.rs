use std::collections::BTreeMap;

use osproxy_api::v1::File;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{Service, content, eventually, expect_json, expect_problem};

async fn patch(service: &Service, uid: &str, body: &Value) -> Response {
    service.v1(Method::PATCH, &format!("/files/{uid}"), Some(body)).await
}

#[tokio::test]
async fn names_change_and_bytes_stay_where_they_are() {
    let mut service = Service::start().await;
    let bytes = content(1, 10_000);
    let uid = service.store("photo.jpg", &bytes).await;
    let objects = service.objects();
    let link = service.download_link(&uid).await.unwrap().url;
    assert_eq!(service.get(&link).await.bytes().await.unwrap(), bytes);
    let file: File = expect_json(patch(&service, &uid, &json!({"name": "a/名前.txt"})).await, 200).await;
    assert_eq!((file.name.as_str(), file.category.as_str()), ("名前.txt", "doc"));
    // Existing links go on, and have the new name at once: the cache was invalidated.
    let answer = service.get(&link).await;
    assert!(answer.headers()["content-disposition"].to_str().unwrap().contains("%E5%90%8D"));
    assert_eq!(answer.bytes().await.unwrap(), bytes);
    assert_eq!(service.objects(), objects);
    // The same bytes sent again are compared, and share the blob.
    let again = service.upload_link("again.txt").await;
    assert_eq!(service.put(&again.url.single, &bytes).await.status(), 200);
    // The compared copy is removed after the answer.
    eventually("only the first object remains", async || (service.objects() == objects).then_some(())).await;
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{}", again.uid), None).await.status(), 204);
    service.database().wait_until_idle().await;
    assert!(service.objects().is_empty());
    service.assert_consistent().await;
}

/// Keys have the category at the time of writing; each row has the full key, so a rename in between
/// does no harm.
#[tokio::test]
async fn an_upload_may_be_renamed_in_its_middle() {
    let mut service = Service::start().await;
    let bytes = content(1, 60_000);
    let link = service.upload_link("film.mp4").await;
    let parts: Vec<_> = bytes.chunks(20_000).collect();
    assert_eq!(service.put_part(&link, 1, parts[0]).await.status(), 200);
    assert_eq!(service.put_part(&link, 2, b"to be replaced").await.status(), 200);
    assert_eq!(patch(&service, &link.uid, &json!({"name": "song.mp3"})).await.status(), 200);
    service.put_parts(&link, &parts).await;
    assert_eq!(service.merge(&link, 3, &bytes).await.status(), 200);
    assert_eq!(patch(&service, &link.uid, &json!({"name": "text.pdf"})).await.status(), 200);
    assert!(service.read(&link.uid).await == bytes);
    service.wait_until_merged(&link.uid).await;
    assert!(service.read(&link.uid).await == bytes);
    let single = service.upload_link("a.jpg").await;
    assert_eq!(patch(&service, &single.uid, &json!({"name": "b.zip"})).await.status(), 200);
    assert_eq!(service.put(&single.url.single, b"single").await.status(), 200);
    assert_eq!(patch(&service, &single.uid, &json!({"name": "a.jpg"})).await.status(), 200);
    // Repeating the same content succeeds, and other content is refused, as before.
    assert_eq!(service.put(&single.url.single, b"single").await.status(), 200);
    assert_eq!(service.put(&single.url.single, b"other!").await.status(), 422);
    assert_eq!(service.read(&single.uid).await, b"single");
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn metadata_is_patched_key_by_key() {
    let service = Service::start().await;
    let uid = service.upload_link("x.txt").await.uid;
    let metadata = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    for (body, expected) in [
        (
            json!({"metadata": {"a": "1", "b": "", "é\u{0}": "\u{0}\"\n"}}),
            metadata(&[("a", "1"), ("b", ""), ("é\0", "\0\"\n")]),
        ),
        (
            json!({"metadata": {"a": null, "nothing": null, "c": "3"}}),
            metadata(&[("b", ""), ("c", "3"), ("é\0", "\0\"\n")]),
        ),
        (json!({"metadata": {}}), metadata(&[("b", ""), ("c", "3"), ("é\0", "\0\"\n")])),
        (json!({}), metadata(&[("b", ""), ("c", "3"), ("é\0", "\0\"\n")])),
        (json!({"metadata": {"b": null, "é\u{0}": null, "c": "4"}}), metadata(&[("c", "4")])),
    ] {
        let file: File = expect_json(patch(&service, &uid, &body).await, 200).await;
        assert_eq!(file.metadata, expected, "{body}");
    }
    let url = service.url(&format!("/api/v1/files/{uid}"));
    let request = service.client().patch(&url).header("content-type", "application/merge-patch+json");
    let answer = request.body(r#"{"name":"y.txt","metadata":{"c":null}}"#).send().await.unwrap();
    let file: File = expect_json(answer, 200).await;
    assert_eq!((file.name.as_str(), file.metadata.len()), ("y.txt", 0));
    // `null` instead of the object removes all metadata.
    assert_eq!(patch(&service, &uid, &json!({"metadata": {"a": "1", "b": "2"}})).await.status(), 200);
    let file: File = expect_json(patch(&service, &uid, &json!({"metadata": null})).await, 200).await;
    assert_eq!((file.name.as_str(), file.metadata.len()), ("y.txt", 0));
    // Up to the limit in steps; then no more.
    let four: BTreeMap<_, _> = (0..4).map(|number| (format!("{number:03}"), "v".repeat(4093))).collect();
    assert_eq!(patch(&service, &uid, &json!({"metadata": four})).await.status(), 200);
    let told = expect_problem(
        patch(&service, &uid, &json!({"metadata": {"x": "y"}})).await,
        400,
        "invalid_argument",
    )
    .await;
    assert_eq!(told["field"], "metadata");
    assert_eq!(patch(&service, &uid, &json!({"metadata": {"x": "y", "000": null}})).await.status(), 200);
    // Concurrent updates do not overwrite each other.
    let clear: BTreeMap<_, Option<String>> =
        ["001", "002", "003", "x"].map(|key| (key.to_owned(), None)).into();
    assert_eq!(patch(&service, &uid, &json!({"metadata": clear})).await.status(), 200);
    let patches = (0..20).map(|number| {
        let (service, uid) = (&service, &uid);
        async move { patch(service, uid, &json!({"metadata": {number.to_string(): "x"}})).await.status() }
    });
    let statuses = futures_util::future::join_all(patches).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let file: File = expect_json(service.v1_get(&format!("/files/{uid}")).await, 200).await;
    assert_eq!(file.metadata.len(), 20);
}

#[tokio::test]
async fn bad_input_is_refused_and_changes_nothing() {
    let service = Service::start().await;
    let uid = service.store("x.txt", b"x").await;
    let long_key = json!({"metadata": {"k".repeat(129): "x"}});
    let many: BTreeMap<_, _> = (0..65).map(|number| (number.to_string(), "x")).collect();
    for (body, field) in [
        (json!({"name": ""}), "name"),
        (json!({"name": "/"}), "name"),
        (json!({"name": "nul\0"}), "name"),
        (json!({"name": "x".repeat(1025)}), "name"),
        (json!({"name": "x".repeat(5000)}), "name"),
        (json!({"name": null}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"nam": "x"}), "nam"),
        (json!({"name": "y.txt", "uid": "5"}), "uid"),
        (json!({"metadata": "x"}), "metadata"),
        (json!({"metadata": {"a": 5}}), "metadata.a"),
        (json!({"metadata": {"a": {"b": "c"}}}), "metadata.a"),
        (json!({"metadata": {"": "x"}}), "metadata"),
        (json!({"metadata": {"a": "x".repeat(4097)}}), "metadata"),
        (long_key, "metadata"),
        (json!({"name": "y.txt", "metadata": many}), "metadata"),
    ] {
        let told = expect_problem(patch(&service, &uid, &body).await, 400, "invalid_argument").await;
        assert_eq!(told["field"], field, "{body}: {told}");
    }
    for body in [json!([]), json!(null), json!("x")] {
        expect_problem(patch(&service, &uid, &body).await, 400, "invalid_argument").await;
    }
    let url = service.url(&format!("/api/v1/files/{uid}"));
    let request = service.client().patch(&url).header("content-type", "text/json").body("{}");
    expect_problem(request.send().await.unwrap(), 415, "unsupported_media_type").await;
    let huge = json!({"metadata": {"a": "x".repeat(70_000)}});
    expect_problem(patch(&service, &uid, &huge).await, 413, "too_large").await;
    let file: File = expect_json(service.v1_get(&format!("/files/{uid}")).await, 200).await;
    assert_eq!((file.name.as_str(), file.metadata.len()), ("x.txt", 0));
    expect_problem(patch(&service, "1", &json!({})).await, 404, "file_not_found").await;
    service.v1(Method::DELETE, &format!("/files/{uid}"), None).await;
    expect_problem(patch(&service, &uid, &json!({})).await, 410, "file_gone").await;
}
