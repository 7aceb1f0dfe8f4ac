//! Objects are files: what becomes of both.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
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

    /// A scene with a bucket, in which files wait for a gate, and then get this verdict.
    async fn gated(verdict: &Value) -> (Self, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"processing": [gated_step(folder.path(), verdict)]});
        let mut service = Service::start().await;
        std::fs::write(service.folder().join("config.yaml"), config.to_string()).unwrap();
        service.set_setting("S3_API__LISTEN", "127.0.0.1:0");
        service.set_setting("S3_API__MASTER_KEY", &"0".repeat(64));
        service.restart_configured().await;
        let scene = Self::around(service).await;
        assert_eq!(scene.request("PUT", "/photos", "", b"").await.status, 200);
        (scene, folder)
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
        self.put_parts_if(key, parts, &[]).await
    }

    /// Like [`put_parts`](Self::put_parts), with headers of the completion.
    async fn put_parts_if(&self, key: &str, parts: &[&[u8]], headers: &[(&str, &str)]) -> (S3Answer, String) {
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
        let query = format!("uploadId={id}");
        (self.conditional("POST", &path, &query, list.as_bytes(), headers).await, id)
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
    let (mut scene, folder) = Scene::gated(&json!({"verdict": "accept"})).await;
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
async fn conditions_are_decided_before_processing() {
    let (mut scene, folder) = Scene::gated(&json!({"verdict": "accept"})).await;
    for size in [100, 100_000] {
        let path = format!("/photos/once-{size}");
        let put = async |seed, header: (&str, &str)| {
            scene.conditional("PUT", &path, "", &content(seed, size), &[header]).await.outcome().0
        };
        let writes = (0..6).map(|seed| put(seed + size as u64, ("if-none-match", "*")));
        let mut outcomes = join_all(writes).await;
        outcomes.sort_unstable();
        assert_eq!(outcomes, [200, 412, 412, 412, 412, 412], "{size}");
        assert_eq!(put(90, ("if-match", "\"00\"")).await, 412);
        let body = content(91, size);
        let etag = format!("\"{}\"", md5_of(&body));
        assert_eq!(put(91, ("if-match", "*")).await, 200);
        assert_eq!(put(92 + size as u64, ("if-match", &etag)).await, 200);
        assert_eq!(put(93, ("if-match", &etag)).await, 412);
    }
    open_gate(&folder);
    scene.service.database().wait_until_idle().await;
    for size in [100, 100_000] {
        let read = scene.request("GET", &format!("/photos/once-{size}"), "", b"").await;
        assert_eq!(read.body(), content(92 + size as u64, size));
    }
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn a_rejected_file_frees_its_key() {
    let (mut scene, folder) = Scene::gated(&json!({"verdict": "reject", "reason": "bad"})).await;
    let put = async || {
        scene
            .conditional("PUT", "/photos/key", "", &content(1, 100_000), &[("if-none-match", "*")])
            .await
            .status
    };
    assert_eq!((put().await, put().await), (200, 412));
    assert_eq!(scene.request("DELETE", "/photos", "", b"").await.outcome(), (409, "BucketNotEmpty"));
    open_gate(&folder);
    eventually("the key is free", async || (put().await == 200).then_some(())).await;
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn a_completed_upload_waits_for_processing() {
    let (mut scene, folder) = Scene::gated(&json!({"verdict": "accept"})).await;
    let parts = [content(1, 5 << 20), content(2, 1000)];
    let (completed, id) = scene.put_parts("big", &[&parts[0], &parts[1]]).await;
    assert_eq!(completed.status, 200, "{}", completed.text);
    let uploads = scene.request("GET", "/photos", "uploads=", b"").await;
    assert!(!uploads.text.contains(&id), "{}", uploads.text);
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        md5_of(&parts[0])
    );
    let again = scene.request("POST", "/photos/big", &format!("uploadId={id}"), list.as_bytes()).await;
    assert_eq!((again.status, again.element("ETag")), (200, completed.element("ETag")), "{}", again.text);
    let other = scene.request("POST", "/photos/other", &format!("uploadId={id}"), list.as_bytes()).await;
    assert_eq!(other.outcome(), (404, "NoSuchUpload"));
    open_gate(&folder);
    scene.service.database().wait_until_idle().await;
    assert_eq!(scene.request("GET", "/photos/big", "", b"").await.body(), parts.concat());
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn completions_and_deletions_see_the_files_that_wait() {
    let (mut scene, folder) = Scene::gated(&json!({"verdict": "accept"})).await;
    let (first, second) = (content(1, 100_000), content(2, 100_000));
    let new = [("if-none-match", "*")];
    let (completed, _) = scene.put_parts_if("key", &[&first], &new).await;
    assert_eq!(completed.status, 200, "{}", completed.text);
    let (refused, id) = scene.put_parts_if("key", &[&second], &new).await;
    assert_eq!(refused.outcome(), (412, "PreconditionFailed"));
    let listed = scene.request("GET", "/photos/key", &format!("uploadId={id}"), b"").await;
    assert_eq!(listed.text.matches("<PartNumber>").count(), 1, "{}", listed.text);
    let delete = async |etag: &str| {
        scene.conditional("DELETE", "/photos/key", "", b"", &[("if-match", etag)]).await.status
    };
    let etag = format!("\"{}-1\"", md5_of(&hex::decode(md5_of(&first)).unwrap()));
    assert_eq!((delete("\"00\"").await, delete(&etag).await, delete(&etag).await), (412, 204, 404));
    open_gate(&folder);
    assert_eq!(scene.request("DELETE", "/photos/key", &format!("uploadId={id}"), b"").await.status, 204);
    scene.service.database().wait_until_idle().await;
    assert_eq!(scene.request("GET", "/photos/key", "", b"").await.outcome(), (404, "NoSuchKey"));
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn a_failed_completion_changes_nothing() {
    let scene = Scene::with_bucket().await;
    let (large, small) = (content(1, 5 << 20), content(2, 1000));
    let id = scene.request("POST", "/photos/big", "uploads=", b"").await.element("UploadId").to_owned();
    for (number, part) in [(1, &large), (2, &small), (3, &small)] {
        let query = format!("partNumber={number}&uploadId={id}");
        assert_eq!(scene.request("PUT", "/photos/big", &query, part).await.status, 200);
    }
    let complete = async |parts: &[(u32, &[u8])], size: &str| {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, part) in parts {
            write!(list, "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", md5_of(part))
                .unwrap();
        }
        list += "</CompleteMultipartUpload>";
        let (query, size) = (format!("uploadId={id}"), [("x-amz-mp-object-size", size)]);
        let answer = scene.conditional("POST", "/photos/big", &query, list.as_bytes(), &size).await;
        (answer.status, answer.element("Code").to_owned())
    };
    for (parts, size, code) in [
        (&[(1, &*large)][..], "7", "InvalidRequest"),
        (&[(1, &small)], "1000", "InvalidPart"),
        (&[(1, &large), (2, &large)], "7", "InvalidPart"),
        (&[(1, &large), (2, &small), (3, &small)], "5244880", "EntityTooSmall"),
    ] {
        assert_eq!(complete(parts, size).await, (400, code.to_owned()));
        let listed = scene.request("GET", "/photos/big", &format!("uploadId={id}"), b"").await;
        assert_eq!(listed.text.matches("<PartNumber>").count(), 3, "{}", listed.text);
    }
    assert_eq!(complete(&[(1, &large), (2, &small)], "5243880").await.0, 200);
    assert_eq!(scene.request("GET", "/photos/big", "", b"").await.body(), [large, small].concat());
}

#[tokio::test]
async fn the_numbers_of_parts_may_have_gaps() {
    let mut scene = Scene::with_bucket().await;
    let part = 5 << 20;
    // Parts of one size all lie in one file on a local disk.
    for (key, numbers, sizes) in
        [("mixed", [2, 3, 7, 9000], [part, part, 6 << 20, 1000]), ("equal", [1, 2, 4, 5], [part; 4])]
    {
        let contents: Vec<_> = (1..).zip(sizes).map(|(seed, size)| content(seed, size)).collect();
        let path = format!("/photos/{key}");
        let id = scene.request("POST", &path, "uploads=", b"").await.element("UploadId").to_owned();
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, part) in numbers.into_iter().zip(&contents) {
            let query = format!("partNumber={number}&uploadId={id}");
            assert_eq!(scene.request("PUT", &path, &query, part).await.status, 200);
            // The second part is sent, and not used.
            if part != &contents[1] {
                let md5 = md5_of(part);
                write!(list, "<Part><PartNumber>{number}</PartNumber><ETag>{md5}</ETag></Part>").unwrap();
            }
        }
        list += "</CompleteMultipartUpload>";
        scene.service.database().hold_merges().await;
        let completed = scene.request("POST", &path, &format!("uploadId={id}"), list.as_bytes()).await;
        assert_eq!(completed.status, 200, "{}", completed.text);
        let expected = [&*contents[0], &contents[2], &contents[3]].concat();
        assert!(scene.request("GET", &path, "", b"").await.body() == expected, "{key} in parts");
        scene.service.database().release_merges().await;
        let in_parts = "SELECT id FROM blobs WHERE state = 'stored' AND layout <> 'whole'";
        eventually("the parts are merged", async || {
            scene.service.sql(in_parts).await.is_empty().then_some(())
        })
        .await;
        assert!(scene.request("GET", &path, "", b"").await.body() == expected, "{key} in one object");
    }
    // The sweep of a start removes the parts that are not used.
    scene.service.kill().await;
    scene.service.restart().await;
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn an_object_in_quarantine_can_be_deleted_and_replaced() {
    let (mut scene, folder) = Scene::gated(&json!({"verdict": "quarantine", "reason": "bad"})).await;
    open_gate(&folder);
    for seed in [1, 2] {
        let answer = scene.request("PUT", "/photos/key", "", &content(seed, 100_000)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    eventually("both are in quarantine", async || {
        (scene.states().await == ["quarantined", "quarantined"]).then_some(())
    })
    .await;
    assert_eq!(scene.request("DELETE", "/photos/key", "", b"").await.status, 204);
    assert_eq!(scene.states().await, ["deleted", "deleted"]);
    let charged = "SELECT uid FROM files WHERE charged + record_bytes > 0";
    assert!(scene.service.sql(charged).await.is_empty());
    eventually("the content is removed", async || scene.service.objects().is_empty().then_some(())).await;
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn late_checksums_and_tags_are_kept() {
    let (mut scene, folder) = Scene::gated(&json!({"verdict": "accept"})).await;
    let body = content(1, 100_000);
    let sum = crc32_base64(&body);
    let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(format!("\r\n0\r\nx-amz-checksum-crc32:{sum}\r\n\r\n").as_bytes());
    let headers = [
        ("content-encoding", "aws-chunked"),
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "100000"),
        ("x-amz-tagging", "a=1"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    ];
    let stored = scene.conditional("PUT", "/photos/key", "", &chunked, &headers).await;
    assert_eq!((stored.status, stored.header("x-amz-checksum-crc32")), (200, &*sum), "{}", stored.text);
    open_gate(&folder);
    scene.service.database().wait_until_idle().await;
    let tags = b"<Tagging><TagSet><Tag><Key>b</Key><Value>2</Value></Tag></TagSet></Tagging>";
    assert_eq!(scene.request("PUT", "/photos/key", "tagging=", tags).await.status, 200);
    let checked =
        scene.conditional("HEAD", "/photos/key", "", b"", &[("x-amz-checksum-mode", "ENABLED")]).await;
    assert_eq!((checked.status, checked.header("x-amz-checksum-crc32")), (200, &*sum), "{}", checked.text);
    let tags = scene.request("GET", "/photos/key", "tagging=", b"").await;
    assert_eq!((tags.element("Key"), tags.element("Value")), ("b", "2"), "{}", tags.text);
    scene.service.assert_consistent().await;
}

fn crc32_base64(bytes: &[u8]) -> String {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    BASE64_STANDARD.encode((!crc).to_be_bytes())
}

#[tokio::test]
async fn what_is_said_about_an_object_is_limited_and_charged() {
    let scene = Scene::with_bucket().await;
    let charge = async || {
        let rows = scene.service.sql("SELECT record_bytes FROM files WHERE state = 'stored'").await;
        rows[0].parse::<i64>().unwrap()
    };
    let put = async |headers: &[(&str, &str)]| {
        let answer = scene.conditional("PUT", "/photos/key", "", b"x", headers).await;
        (answer.status, answer.element("Code").to_owned())
    };
    assert_eq!(put(&[]).await.0, 200);
    let bare = charge().await;
    let (long, longer) = ("v".repeat(1000), "v".repeat(2048));
    assert_eq!(
        put(&[("x-amz-meta-a", &long), ("cache-control", &long), ("x-amz-tagging", "a=1")]).await.0,
        200
    );
    assert!(charge().await >= bare + 2000, "{bare}");
    for name in ["x-amz-meta-a", "cache-control"] {
        assert_eq!(put(&[(name, &longer)]).await, (400, "MetadataTooLarge".to_owned()), "{name}");
    }
    let tags = format!(
        "<Tagging><TagSet><Tag><Key>b</Key><Value>{}</Value></Tag></TagSet></Tagging>",
        "v".repeat(200)
    );
    let before = charge().await;
    assert_eq!(scene.request("PUT", "/photos/key", "tagging=", tags.as_bytes()).await.status, 200);
    assert_eq!(charge().await, before + 199);
}

#[tokio::test]
async fn a_reader_that_waits_finds_the_object_that_is_replaced_meanwhile() {
    let mut scene = Scene::start_with(&[("LIMITS__MAX_BUFFER_MEMORY", "16MiB")]).await;
    assert_eq!(scene.request("PUT", "/photos", "", b"").await.status, 200);
    scene.put("source", &content(1, 100_000)).await;
    let old = scene.put("key", &content(2, 100_000)).await;
    // Uploads that do not end take all memory for transfers.
    let mut slow = Vec::new();
    for number in 0..16 {
        let mut request = scene.get(&format!("/photos/slow-{number}"));
        request.method = "PUT";
        let head = format!(
            "PUT {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000\r\n\r\n",
            request.presign(&scene.key, 600),
            scene.address
        );
        let mut upload = RawConnection::open(scene.address).await;
        upload.send(&[head.as_bytes(), &content(1, 1000)].concat()).await;
        slow.push(upload);
    }
    let receiving = "SELECT uid FROM files WHERE state = 'receiving'";
    eventually("all send", async || (scene.service.sql(receiving).await.len() == 16).then_some(())).await;
    let (head, _) = scene.get("/photos/key").sign(&scene.key);
    let mut reader = RawConnection::open(scene.address).await;
    reader.send(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
    eventually("the reader waits", async || {
        let page = scene.service.get("/metrics").await.text().await.unwrap();
        page.contains("osproxy_requests_in_flight 18.0\n").then_some(())
    })
    .await;
    let copied =
        scene.conditional("PUT", "/photos/key", "", b"", &[("x-amz-copy-source", "/photos/source")]).await;
    assert_eq!(copied.status, 200, "{}", copied.text);
    let blob = format!("SELECT id FROM blobs WHERE id = {old}");
    eventually("the old content is gone", async || scene.service.sql(&blob).await.is_empty().then_some(()))
        .await;
    slow.clear();
    let answer = reader.read_all().await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..200]));
    assert!(answer.ends_with(&content(1, 100_000)));
    eventually("nothing is left of the uploads", async || {
        scene.service.sql(receiving).await.is_empty().then_some(())
    })
    .await;
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
