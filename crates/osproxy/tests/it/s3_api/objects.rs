//! Objects are files: what becomes of both.

use std::fmt::Write;

use futures_util::future::join_all;
use md5::{Digest, Md5};
use serde_json::{Value, json};

use super::Scene;
use crate::processing::{gated_step, open_gate};
use crate::support::{
    Api, RawConnection, S3Answer, Service, content, eventually, expect_json, expect_problem,
};

fn md5_of(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

impl Scene {
    async fn with_bucket() -> Self {
        let scene = Self::start().await;
        assert_eq!(scene.request("PUT", "/photos", "", b"").await.status, 200);
        scene
    }

    async fn request(&self, method: &'static str, path: &str, query: &str, body: &[u8]) -> S3Answer {
        self.conditional(method, path, query, body, &[]).await
    }

    async fn conditional(
        &self,
        method: &'static str,
        path: &str,
        query: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> S3Answer {
        let mut request = self.get(path);
        (request.method, request.query, request.body) = (method, query.to_owned(), body.to_vec());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send(self.address, &self.key).await
    }

    /// Stores an object, and returns the uid of its file.
    async fn put(&self, key: &str, body: &[u8]) -> String {
        let answer = self.request("PUT", &format!("/photos/{key}"), "", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.header("etag"), format!("\"{}\"", md5_of(body)));
        let rows =
            self.service.sql("SELECT uid FROM objects ORDER BY modified_at DESC, uid DESC LIMIT 1").await;
        rows[0].clone()
    }

    /// Uploads the parts, and returns the answer to the completion and the id of the upload.
    async fn put_parts(&self, key: &str, parts: &[&[u8]]) -> (S3Answer, String) {
        let path = format!("/photos/{key}");
        let id = self.request("POST", &path, "uploads=", b"").await.element("UploadId").to_owned();
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, part) in (1..).zip(parts) {
            let query = format!("partNumber={number}&uploadId={id}");
            let answer = self.request("PUT", &path, &query, part).await;
            let etag = format!("\"{}\"", md5_of(part));
            assert_eq!((answer.status, answer.header("etag")), (200, etag.as_str()), "{}", answer.text);
            write!(list, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>").unwrap();
        }
        list += "</CompleteMultipartUpload>";
        (self.request("POST", &path, &format!("uploadId={id}"), list.as_bytes()).await, id)
    }

    /// The states of all files, sorted.
    async fn states(&self) -> Vec<String> {
        self.service.sql("SELECT state FROM files ORDER BY state").await
    }
}

/// Expects that no link can be issued for a file, because it was deleted.
async fn expect_deleted(api: &Api, uid: &str) {
    let link = api.v1_post(&format!("/files/{uid}/links"), &json!({"expires_in": 60})).await;
    expect_problem(link, 410, "file_gone").await;
}

#[tokio::test]
async fn an_object_is_a_file() {
    let mut scene = Scene::with_bucket().await;
    let first = scene.put("a/one.txt", b"first").await;
    let shop = scene.service.with_key(&scene.service.create_key(&["--tenant", "shop"]).await);
    let file: Value = expect_json(shop.v1_get(&format!("/files/{first}")).await, 200).await;
    assert_eq!(
        (&file["name"], &file["state"], &file["size"]),
        (&"one.txt".into(), &"stored".into(), &5.into())
    );
    assert_eq!(scene.request("GET", "/photos/a/one.txt", "", b"").await.body(), b"first");
    // Replacing an object ends the file that it was before.
    let second = scene.put("a/one.txt", &content(1, 200_000)).await;
    assert_ne!(first, second);
    expect_deleted(&shop, &first).await;
    assert_eq!(scene.request("GET", "/photos/a/one.txt", "", b"").await.body(), content(1, 200_000));
    // So does the deletion of one with the other.
    let deleted = shop.v1(reqwest::Method::DELETE, &format!("/files/{second}"), None).await;
    assert_eq!(deleted.status(), 204);
    assert_eq!(scene.request("GET", "/photos/a/one.txt", "", b"").await.outcome(), (404, "NoSuchKey"));
    let third = scene.put("a/one.txt", b"third").await;
    assert_eq!(scene.request("DELETE", "/photos/a/one.txt", "", b"").await.status, 204);
    expect_deleted(&shop, &third).await;
    eventually("all content is removed", async || scene.service.objects().is_empty().then_some(())).await;
    assert_eq!(scene.request("DELETE", "/photos", "", b"").await.status, 204);
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn parts_become_an_object() {
    let mut scene = Scene::with_bucket().await;
    let (large, small) = (content(1, 5 << 20), content(2, 1000));
    let (completed, id) = scene.put_parts("big", &[&large, &small]).await;
    let expected = [md5_of(&large), md5_of(&small)].map(|md5| hex::decode(md5).unwrap()).concat();
    let etag = format!("\"{}-2\"", md5_of(&expected));
    assert_eq!(completed.element("ETag").replace("&quot;", "\""), etag, "{}", completed.text);
    let read = scene.request("GET", "/photos/big", "", b"").await;
    assert_eq!((read.header("etag"), read.body()), (&*etag, &*[large.clone(), small.clone()].concat()));
    // A repeated completion says the same, and nothing can be added.
    let again = format!("uploadId={id}");
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        md5_of(&large)
    );
    assert_eq!(scene.request("POST", "/photos/big", &again, list.as_bytes()).await.status, 200);
    let late = scene.request("PUT", "/photos/big", &format!("partNumber=3&uploadId={id}"), b"late").await;
    assert_eq!(late.outcome(), (404, "NoSuchUpload"));
    // A part that is not the last must have 5 MiB.
    let (refused, id) = scene.put_parts("small", &[&small, &small]).await;
    assert_eq!(refused.outcome(), (400, "EntityTooSmall"));
    assert_eq!(scene.request("GET", "/photos/small", "", b"").await.outcome(), (404, "NoSuchKey"));
    assert_eq!(scene.request("DELETE", "/photos/small", &format!("uploadId={id}"), b"").await.status, 204);
    assert_eq!(
        scene.request("GET", "/photos/small", &format!("uploadId={id}"), b"").await.outcome().1,
        "NoSuchUpload"
    );
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn of_conditional_writes_at_once_one_wins() {
    let mut scene = Scene::with_bucket().await;
    for size in [100, 100_000] {
        let path = format!("/photos/once-{size}");
        let writes = (0..8).map(|seed| {
            let (scene, path) = (&scene, &path);
            async move {
                let body = content(seed + size as u64, size);
                scene.conditional("PUT", path, "", &body, &[("if-none-match", "*")]).await.status
            }
        });
        let mut outcomes = join_all(writes).await;
        outcomes.sort_unstable();
        assert_eq!(outcomes, [200, 412, 412, 412, 412, 412, 412, 412], "{size}");
    }
    for (size, length) in [(1, 32), (100_000, 32), (100_000, 1000)] {
        let (etag, body) = (format!("\"{}\"", "0".repeat(length)), content(9, size));
        let replaced = scene.conditional("PUT", "/photos/once-100", "", &body, &[("if-match", &etag)]).await;
        assert_eq!(replaced.outcome(), (412, "PreconditionFailed"));
    }
    scene.service.database().wait_until_idle().await;
    eventually("nothing is left of the others", async || (scene.service.objects().len() == 2).then_some(()))
        .await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn of_writes_at_once_the_last_stays() {
    let mut scene = Scene::with_bucket().await;
    let writes = (0..12).map(|seed| {
        let scene = &scene;
        async move {
            let body = content(seed, if seed % 2 == 0 { 100 } else { 100_000 });
            let answer = scene.request("PUT", "/photos/key", "", &body).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    });
    join_all(writes).await;
    let mut expected = vec!["deleted"; 11];
    expected.push("stored");
    assert_eq!(scene.states().await, expected);
    let body = scene.request("GET", "/photos/key", "", b"").await.body().to_vec();
    assert!((0..12).any(|seed| body == content(seed, if seed % 2 == 0 { 100 } else { 100_000 })));
    eventually("the other content is removed", async || (scene.service.objects().len() == 1).then_some(()))
        .await;
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn copies_share_content_and_outlive_their_source() {
    let mut scene = Scene::with_bucket().await;
    let body = content(1, 300_000);
    scene.put("source", &body).await;
    let copied =
        scene.conditional("PUT", "/photos/copy", "", b"", &[("x-amz-copy-source", "/photos/source")]).await;
    assert_eq!(copied.status, 200, "{}", copied.text);
    assert_eq!(scene.service.objects().len(), 1);
    let same =
        scene.conditional("PUT", "/photos/copy", "", b"", &[("x-amz-copy-source", "/photos/copy")]).await;
    assert_eq!(same.outcome(), (400, "InvalidRequest"));
    assert_eq!(scene.request("DELETE", "/photos/source", "", b"").await.status, 204);
    assert_eq!(scene.request("GET", "/photos/copy", "", b"").await.body(), body);
    let missing =
        scene.conditional("PUT", "/photos/x", "", b"", &[("x-amz-copy-source", "/photos/source")]).await;
    assert_eq!(missing.outcome(), (404, "NoSuchKey"));
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    let mut scene = Scene::with_bucket().await;
    scene.put("small", b"small").await;
    scene.put("large", &content(1, 200_000)).await;
    scene.put("large", &content(2, 200_000)).await;
    let (completed, _) = scene.put_parts("parts", &[&content(3, 5 << 20), b"end"]).await;
    assert_eq!(completed.status, 200);
    scene.service.kill_and_restart().await;
    scene.address = super::listener_address(&scene.service, 2).await;
    assert_eq!(scene.request("GET", "/photos/small", "", b"").await.body(), b"small");
    assert_eq!(scene.request("GET", "/photos/large", "", b"").await.body(), content(2, 200_000));
    let parts = scene.request("GET", "/photos/parts", "", b"").await;
    assert_eq!(parts.body(), [content(3, 5 << 20), b"end".to_vec()].concat());
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn a_revoked_key_ends_what_it_sends() {
    let mut scene = Scene::with_bucket().await;
    let mut request = scene.get("/photos/slow");
    request.method = "PUT";
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\n",
        request.presign(&scene.key, 600),
        scene.address
    );
    let mut upload = RawConnection::open(scene.address).await;
    upload.send(&[head.as_bytes(), &content(1, 200_000)].concat()).await;
    eventually("the upload has begun", async || (scene.states().await == ["receiving"]).then_some(())).await;
    assert_eq!(scene.service.cli(&["s3-key", "revoke", &scene.key.access_key_id]).await.0, 0);
    let answer = upload.read_to_end().await;
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("<Code>InvalidAccessKeyId</Code>"),
        "{answer}"
    );
    eventually("nothing is left", async || (scene.states().await == ["deleted"]).then_some(())).await;
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn the_newest_write_wins_after_processing_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"processing": [gated_step(folder.path(), &json!({"verdict": "accept"}))]});
    let mut service = Service::start().await;
    std::fs::write(service.folder().join("config.yaml"), config.to_string()).unwrap();
    service.set_setting("S3_API__LISTEN", "127.0.0.1:0");
    service.set_setting("S3_API__MASTER_KEY", &"0".repeat(64));
    service.restart_configured().await;
    let mut scene = Scene::around(service).await;
    assert_eq!(scene.request("PUT", "/photos", "", b"").await.status, 200);
    for (seed, key) in [(1, "key"), (2, "gone"), (3, "key"), (4, "key")] {
        let answer = scene.request("PUT", &format!("/photos/{key}"), "", &content(seed, 100_000)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    // Nothing can be read before it is accepted, and what was deleted does not come back.
    assert_eq!(scene.request("GET", "/photos/key", "", b"").await.outcome(), (404, "NoSuchKey"));
    assert_eq!(scene.request("DELETE", "/photos/gone", "", b"").await.status, 204);
    open_gate(&folder);
    eventually("the newest is accepted", async || {
        let states = scene.states().await;
        assert!(
            states.iter().all(|state| ["deleted", "processing", "stored"].contains(&&**state)),
            "{states:?}"
        );
        (states == ["deleted", "deleted", "deleted", "stored"]).then_some(())
    })
    .await;
    assert_eq!(scene.request("GET", "/photos/key", "", b"").await.body(), content(4, 100_000));
    assert_eq!(scene.request("GET", "/photos/gone", "", b"").await.outcome(), (404, "NoSuchKey"));
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let scene = Scene::with_bucket().await;
    scene.put("secret", b"secret").await;
    let key = crate::support::S3Key::create(&scene.service, &["--tenant", "other"]).await;
    for (method, path) in
        [("GET", "/photos/secret"), ("GET", "/photos"), ("PUT", "/photos/x"), ("DELETE", "/photos")]
    {
        let mut request = scene.get(path);
        request.method = method;
        let answer = request.send(scene.address, &key).await;
        assert_eq!(answer.outcome(), (403, "AccessDenied"), "{method} {path}");
    }
    let mut request = scene.get("/photos");
    request.method = "PUT";
    assert_eq!(request.send(scene.address, &key).await.outcome(), (409, "BucketAlreadyExists"));
    let source = scene.get("/x").header("x-amz-copy-source", "/photos/secret");
    assert_ne!(source.send(scene.address, &key).await.status, 200);
}

#[tokio::test]
async fn a_full_quota_changes_nothing() {
    let scene = Scene::with_bucket().await;
    scene.put("key", b"kept").await;
    assert_eq!(scene.service.cli(&["tenant", "set", "shop", "--max-bytes", "10000"]).await.0, 0);
    // A node may not know of a new quota for 5 seconds.
    eventually("the quota is known", async || {
        let answer = scene.request("PUT", "/photos/key", "", &content(1, 100_000)).await;
        (answer.outcome() == (403, "QuotaExceeded")).then_some(())
    })
    .await;
    let kept = scene.request("GET", "/photos/key", "", b"").await;
    assert!(kept.body() == b"kept" || kept.body() == content(1, 100_000));
}
