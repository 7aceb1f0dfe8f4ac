//! Uploads of API v1 with an announced size, whose parts go into a multipart upload of the store.

use futures_util::future::join_all;
use osproxy_api::v1::{CreatedState, CreatedUpload, FileState, UploadState, UploadStatus};
use osproxy_storage::Key;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{MIN, on_each};
use crate::support::{
    FaultyProxy, Service, Store, StoreServer, content, eventually, expect_json, expect_problem,
};

/// The service's default part size, in bytes.
const PART: usize = 8 << 20;
/// Allowance for request heads and part lists, in bytes.
const LITTLE: u64 = 64 << 10;

fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn put_parts(service: &Service, upload: &CreatedUpload, bytes: &[u8]) {
    for (number, part) in (1..).zip(bytes.chunks(PART)) {
        let answer = service.v1_put_part(upload, number, part).await;
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    }
}

/// Completing moves no bytes, then or later: the digests are derived from those of the parts.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn announced_content_travels_once_and_is_verified_without_being_read() {
    for server in [StoreServer::S3, StoreServer::Oss] {
        let store = Store::new(server);
        let wire = FaultyProxy::start(store.address(), 1).await;
        let mut service = Service::start_on_store(&store, Some(&wire), &[]).await;
        let bytes = content(1, 4 * PART + 1_000_003);
        let before = wire.sent();
        let upload = service.create_upload(&json!({"name": "film.mp4", "size": bytes.len()})).await;
        assert_eq!((upload.state, upload.part_size), (CreatedState::Pending, Some(PART as u64)));
        assert_eq!(wire.sent(), before, "the store got a request before the first part");
        put_parts(&service, &upload, &bytes).await;
        let (sent, exactly) = (wire.sent() - before, bytes.len() as u64);
        println!("{server:?}: {sent} bytes to the store for {exactly}");
        assert!((exactly..exactly + exactly / 100).contains(&sent), "{sent} bytes instead of {exactly}");
        let there = service.v1_status(&upload).await;
        assert_eq!((there.state, there.received), (UploadState::Receiving, exactly));
        assert_eq!(service.objects(), [format!("video/{}.mp4+", upload.uid)], "a part is an object");
        let (sent, received) = (wire.sent(), wire.received());
        let stored: UploadStatus = expect_json(service.v1_complete(&upload).await, 200).await;
        assert_eq!((stored.state, stored.received), (UploadState::Stored, exactly));
        assert_eq!(service.objects(), [format!("video/{}.mp4", upload.uid)]);
        assert_eq!(service.sql("SELECT layout FROM blobs").await, ["whole"]);
        service.wait_until_merged(&upload.uid).await;
        service.database().wait_until_idle().await;
        let (sent, received) = (wire.sent() - sent, wire.received() - received);
        println!("{server:?}: {sent} bytes to the store and {received} from it until it is verified");
        assert!(sent < LITTLE && received < LITTLE, "{sent} {received}");
        let blake3 = blake3_hex(&bytes);
        let file = service.describe(&upload.uid).await;
        assert_eq!(
            (file.state, file.size, file.blake3.as_ref()),
            (FileState::Stored, Some(exactly), Some(&blake3))
        );
        assert!(service.read(&upload.uid).await == bytes);
        // Instant from now on, but for no other size.
        let again = service.create_upload(&json!({"name": "again.mp4", "blake3": blake3})).await;
        assert_eq!((again.state, again.links.is_none()), (CreatedState::Stored, true));
        assert!(service.read(&again.uid).await == bytes);
        let other = service.create_upload(&json!({"name": "other.mp4", "blake3": blake3, "size": 5})).await;
        assert_eq!(other.state, CreatedState::Pending);
        assert_eq!(service.objects().len(), 1);
        service.assert_consistent().await;
    }
}

/// A node may be killed after it has begun a multipart upload and before its id is recorded.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_multipart_upload_that_was_begun_twice_leaves_nothing() {
    let store = Store::new(StoreServer::S3);
    let mut service = Service::start_on_store(&store, None, &[]).await;
    let bytes = content(15, PART + 10);
    let upload = service.create_upload(&json!({"name": "x.bin", "size": bytes.len()})).await;
    put_parts(&service, &upload, &bytes).await;
    let key = Key::parse(&format!("unknown/{}.bin", upload.uid)).unwrap();
    store.backend().multipart().unwrap().begin(&key, None).await.unwrap();
    service.database().hold_task("verify_blob").await;
    let stored: UploadStatus = expect_json(service.v1_complete(&upload).await, 200).await;
    assert_eq!(stored.state, UploadState::Stored);
    assert_eq!(service.sql("SELECT count(*) FROM blobs WHERE blake3 IS NOT NULL").await, ["1"]);
    assert_eq!(service.objects(), [key.to_string(), format!("{key}+")]);
    service.database().release_merges().await;
    service.database().wait_until_idle().await;
    assert_eq!(service.objects(), [key.to_string()]);
    service.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn parts_come_in_any_order_and_again_and_what_counted_last_is_the_file() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let (bytes, other) = (content(2, 3 * PART + 10), content(3, PART));
        let upload = service.create_upload(&json!({"name": "x.bin", "size": bytes.len()})).await;
        let parts: Vec<_> = bytes.chunks(PART).collect();
        // The small last part arrives first, the others concurrently.
        for numbers in [&[4][..], &[3, 1]] {
            let sent = numbers.iter().map(|number| service.v1_put_part(&upload, *number, parts[number - 1]));
            for answer in join_all(sent).await {
                assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
            }
        }
        let missing = expect_problem(service.v1_complete(&upload).await, 409, "parts_missing").await;
        assert_eq!(missing["missing"], json!([2]));
        // A part of a wrong size is rejected, and the stored parts stay.
        for (number, len) in [(2, PART - 1), (2, MIN), (2, 0), (4, 11), (5, 1)] {
            expect_problem(service.v1_put_part(&upload, number, &other[..len]).await, 422, "size_mismatch")
                .await;
        }
        for (number, part) in [(2, &other[..]), (3, parts[2]), (2, parts[1]), (1, &other)] {
            assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
        }
        let there = service.v1_status(&upload).await;
        assert_eq!((there.parts, there.received), (vec![1, 2, 3, 4], bytes.len() as u64));
        // A replacement is an object of its own, because it may still be rejected.
        assert_eq!(service.objects().len(), 3, "{:?}", service.objects());
        assert_eq!(service.v1_complete(&upload).await.status(), 200);
        assert_eq!(service.v1_complete(&upload).await.status(), 200, "completed twice");
        let expected = [&other, &bytes[PART..]].concat();
        assert!(service.read(&upload.uid).await == expected);
        service.wait_until_merged(&upload.uid).await;
        assert_eq!(service.describe(&upload.uid).await.blake3, Some(blake3_hex(&expected)));
        service.database().wait_until_idle().await;
        assert_eq!(service.objects().len(), 1, "more than one object");
        expect_problem(service.v1_put_part(&upload, 1, parts[0]).await, 409, "already_stored").await;
        service.assert_consistent().await;
    })
    .await;
}

/// Content of one small part, and empty content, are stored like any other.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn content_that_is_one_small_part_is_stored_like_any() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        for len in [1, 70_000, PART] {
            let bytes = content(len as u64, len);
            let upload = service.create_upload(&json!({"name": "x.bin", "size": len})).await;
            assert_eq!(service.v1_put_part(&upload, 1, &bytes).await.status(), 204, "{len}");
            assert_eq!(service.v1_complete(&upload).await.status(), 200, "{len}");
            assert!(service.read(&upload.uid).await == bytes, "{len}");
            service.wait_until_merged(&upload.uid).await;
            assert_eq!(service.describe(&upload.uid).await.blake3, Some(blake3_hex(&bytes)), "{len}");
        }
        let empty = service.create_upload(&json!({"name": "x.bin", "size": 0})).await;
        assert_eq!(service.v1_put_part(&empty, 1, b"").await.status(), 204);
        assert_eq!(service.v1_complete(&empty).await.status(), 200);
        assert!(service.read(&empty.uid).await.is_empty());
        // A part size below the store's minimum is rejected.
        let small = json!({"name": "x.bin", "size": 3 * PART, "part_size": 4 << 20});
        expect_problem(service.v1_post("/uploads", &small).await, 400, "invalid_argument").await;
        service.database().wait_until_idle().await;
        service.assert_consistent().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_true_claim_is_verified_behind_and_a_false_one_makes_a_file_corrupt() {
    on_each(async |store: Store| {
        let mut service =
            Service::start_on_store(&store, None, &[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
        let bytes = content(4, PART + 100);
        let size = bytes.len();
        let claimed = service
            .create_upload(&json!({"name": "x.bin", "size": size, "sha256": sha256_hex(b"other")}))
            .await;
        put_parts(&service, &claimed, &bytes).await;
        let stored: UploadStatus = expect_json(service.v1_complete(&claimed).await, 200).await;
        assert_eq!(stored.state, UploadState::Stored);
        eventually("the mismatch is detected", async || {
            (service.describe(&claimed.uid).await.state == FileState::Corrupt).then_some(())
        })
        .await;
        expect_problem(service.v1_complete(&claimed).await, 410, "file_corrupt").await;
        service.database().wait_until_idle().await;
        assert_eq!(service.objects(), [""; 0]);
        let sha256 = sha256_hex(&bytes);
        let claimed = service.create_upload(&json!({"name": "x.bin", "size": size, "sha256": sha256})).await;
        assert_eq!(claimed.state, CreatedState::Pending, "instant upload found corrupt content");
        put_parts(&service, &claimed, &bytes).await;
        assert_eq!(service.v1_complete(&claimed).await.status(), 200);
        service.wait_until_merged(&claimed.uid).await;
        let file = service.describe(&claimed.uid).await;
        assert_eq!((file.sha256.as_ref(), file.blake3), (Some(&sha256), Some(blake3_hex(&bytes))));
        let again = service.create_upload(&json!({"name": "y.bin", "sha256": sha256})).await;
        assert_eq!(again.state, CreatedState::Stored);
        // The BLAKE3 digest is known when the last part is stored; other parts can be sent then.
        let wish = json!({"name": "z.bin", "size": size, "blake3": blake3_hex(b"other")});
        let refused = service.create_upload(&wish).await;
        put_parts(&service, &refused, &content(5, size)).await;
        expect_problem(service.v1_complete(&refused).await, 422, "digest_mismatch").await;
        assert_eq!(service.v1_status(&refused).await.parts, [1, 2]);
        assert_eq!(service.v1_abort(&refused).await.status(), 204);
        service.database().wait_until_idle().await;
        assert_eq!(service.objects(), [format!("unknown/{}.bin", claimed.uid)]);
        service.assert_consistent().await;
    })
    .await;
}

/// Content sent twice is stored once, whatever digests were computed when.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn content_that_is_sent_twice_lies_there_once() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let bytes = content(6, PART + 100);
        let mut uploads = Vec::new();
        for name in ["one.bin", "two.bin"] {
            uploads.push(service.create_upload(&json!({"name": name, "size": bytes.len()})).await);
        }
        for upload in &uploads {
            put_parts(&service, upload, &bytes).await;
        }
        for upload in &uploads {
            assert_eq!(service.v1_complete(upload).await.status(), 200);
        }
        service.database().wait_until_idle().await;
        eventually("one object remains", async || (service.objects().len() == 1).then_some(())).await;
        for upload in &uploads {
            assert!(service.read(&upload.uid).await == bytes);
        }
        service.assert_consistent().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn an_upload_that_is_given_up_leaves_nothing_in_the_store() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let bytes = content(7, 2 * PART + 100);
        for sent in 0..=3 {
            let upload = service.create_upload(&json!({"name": "x.bin", "size": bytes.len()})).await;
            for (number, part) in (1..).zip(bytes.chunks(PART)).take(sent) {
                assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
            }
            assert_eq!(service.objects().len(), usize::from(sent > 0));
            assert_eq!(service.v1_abort(&upload).await.status(), 204);
            expect_problem(service.v1_abort(&upload).await, 410, "file_gone").await;
            expect_problem(service.v1_put_part(&upload, 1, &bytes[..PART]).await, 410, "file_gone").await;
            expect_problem(service.v1_complete(&upload).await, 410, "file_gone").await;
            service.database().wait_until_idle().await;
            assert_eq!(service.objects(), [""; 0], "{sent} parts");
        }
        service.assert_consistent().await;
    })
    .await;
}

/// A multipart upload can be read only after it is completed: its type is checked before anyone
/// else can read it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn the_type_is_judged_by_the_first_bytes_though_the_store_has_them() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let of_type = json!({"name": "x.png", "constraints": {"content_type": "image/png"}});
        let png = [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &content(1, PART)].concat();
        let program = [&b"\x7fELF\x02\x01\x01\0"[..], &content(2, PART)].concat();
        for (bytes, is_taken) in [(&png, true), (&program, false)] {
            let upload = service.create_upload(&of_type).await;
            assert_eq!(service.v1_put_part(&upload, 1, &bytes[..1]).await.status(), 204);
            assert_eq!(service.v1_put_part(&upload, 2, &bytes[1..]).await.status(), 204);
            if is_taken {
                assert_eq!(service.v1_complete(&upload).await.status(), 200);
                assert_eq!(service.describe(&upload.uid).await.content_type.as_deref(), Some("image/png"));
                service.wait_until_merged(&upload.uid).await;
            } else {
                expect_problem(service.v1_complete(&upload).await, 415, "unsupported_media_type").await;
                assert_eq!(service.describe(&upload.uid).await.state, FileState::Corrupt);
            }
        }
        service.database().wait_until_idle().await;
        assert_eq!(service.objects().len(), 1, "the refused object was not removed");
        service.assert_consistent().await;
    })
    .await;
}
