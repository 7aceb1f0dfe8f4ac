//! Objects in stores on other machines: S3, and stand-ins for COS and OSS.

mod checksums;
mod credentials;
mod divided;
mod faults;
mod memory;
mod nodes;
mod overload;
mod traffic;

use futures_util::{StreamExt, TryStreamExt, future::join_all};
use osproxy_api::v0::UploadLinks;
use osproxy_storage::{Key, Multipart};

use crate::support::{Service, Store, StoreServer, content, eventually, expect_v0_error, md5_hex};

/// Minimum part size of a store's multipart upload, in bytes.
const MIN: usize = 5 << 20;

async fn layout(service: &Service) -> Vec<String> {
    service.sql("SELECT layout FROM blobs WHERE state = 'stored'").await
}

/// Runs a test on each server that keeps parts separate, as real stores do.
async fn on_each<T: Future<Output = ()>>(test: impl Fn(Store) -> T) {
    join_all(StoreServer::KEEPING_PARTS.map(|server| test(Store::new(server)))).await;
}

async fn merge_falsely(service: &Service, link: &UploadLinks, parts: usize, size: usize) -> u16 {
    let url = format!("{}&num={parts}&size={size}&md5={}", link.url.multi.merge, md5_hex(b"other"));
    service.client().put(service.url(&url)).send().await.unwrap().status().as_u16()
}

/// The store's id of the multipart upload for a key.
async fn upload_id(uploads: &dyn Multipart, key: &Key) -> String {
    uploads.list_uploads(Some(key)).await.unwrap().try_next().await.unwrap().unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn the_store_puts_parts_together_and_they_are_verified_behind() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let bytes = content(1, 2 * MIN + 1_000_017);
        let link = service.upload_link("film.mp4").await;
        let parts: Vec<_> = bytes.chunks(MIN).collect();
        // The small last part arrives first, and all of them concurrently.
        let sent = [3, 1, 2].map(|number| service.put_part(&link, number, parts[number as usize - 1]));
        for answer in join_all(sent).await {
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        }
        assert_eq!(service.checkpoint(&link.uid).await, [1, 2, 3]);
        assert_eq!(service.objects(), [format!("video/{}.mp4+", link.uid)], "a part is an object");
        // No task verifies the content while this is held.
        service.database().hold_task("verify_blob").await;
        assert_eq!(service.merge(&link, 3, &bytes).await.status(), 200);
        assert_eq!(service.objects(), [format!("video/{}.mp4", link.uid)]);
        assert_eq!(layout(&service).await, ["whole"]);
        assert!(service.read(&link.uid).await == bytes);
        let md5 = md5_hex(&bytes);
        assert_eq!(service.instant_upload(&[(&md5, "again.mp4")]).await[0].uid, "", "it is already verified");
        assert_eq!(service.merge(&link, 3, &bytes).await.status(), 200, "merge sent twice");
        service.database().release_merges().await;
        service.wait_until_merged(&link.uid).await;
        let again = service.instant_upload(&[(&md5, "again.mp4")]).await.remove(0).uid;
        assert!(service.read(&again).await == bytes);
        assert_eq!(service.objects(), [format!("video/{}.mp4", link.uid)]);
        service.database().wait_until_idle().await;
        service.assert_consistent().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn ranges_of_all_layouts_are_exact() {
    on_each(async |store: Store| {
        let service = Service::start_on_store(&store, None, &[]).await;
        // A multipart upload; separate objects; a mixture.
        let cases = [vec![MIN], vec![1_000_000, 6_000_000], vec![1_000_000, 1_000_000 + MIN]];
        for (seed, cuts) in (100..).zip(cases) {
            let bytes = content(seed, MIN + 3_000_000);
            let link = service.upload_link("x.bin").await;
            service.database().hold_merges().await;
            let (mut parts, mut at) = (Vec::new(), 0);
            for cut in cuts.iter().copied().chain([bytes.len()]) {
                parts.push(&bytes[at..cut]);
                at = cut;
            }
            service.put_parts(&link, &parts).await;
            assert_eq!(service.merge(&link, parts.len(), &bytes).await.status(), 200);
            for whole in [false, true] {
                if whole {
                    service.database().release_merges().await;
                    service.wait_until_merged(&link.uid).await;
                }
                let url = service.download_link(&link.uid).await.unwrap().url;
                for (start, end) in
                    [(0, 0), (cuts[0] - 1, cuts[0]), (999_999, 6_000_001), (1, bytes.len() - 1)]
                {
                    let range = format!("bytes={start}-{end}");
                    let get = service.client().get(service.url(&url)).header("range", range);
                    let answer = get.send().await.unwrap();
                    assert_eq!(answer.status(), 206);
                    let end = bytes.len().min(end + 1);
                    assert!(
                        answer.bytes().await.unwrap() == bytes[start..end],
                        "{cuts:?} {start}-{end} {whole}"
                    );
                }
            }
        }
    })
    .await;
}

/// Part numbers and their bytes, in the order of sending.
type Sent<'a> = Vec<(u32, &'a [u8])>;

/// Repeated parts, with the same bytes and with others; a small one in the middle; only small ones.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn whatever_parts_there_are_the_file_is_what_counted_last() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let (one, other, last) = (content(3, MIN), content(4, MIN + 1), content(5, 1000));
        let cases: [(&str, Sent<'_>); 6] = [
            ("again", vec![(1, &one), (2, &last), (1, &one)]),
            ("replaced", vec![(1, &one), (2, &last), (1, &other)]),
            ("small in the middle", vec![(1, &one), (2, &last), (3, &other)]),
            ("small at first", vec![(2, &one), (1, &last), (3, &other)]),
            ("all small", vec![(1, &last), (3, b"three"), (2, b"two")]),
            ("small after it was large", vec![(1, &other), (2, &one), (2, &last), (3, b"end")]),
        ];
        let count = cases.len();
        for (case, sent) in cases {
            let link = service.upload_link("x.bin").await;
            let mut parts = std::collections::BTreeMap::new();
            for (number, part) in sent {
                let answer = service.put_part(&link, number, part).await;
                assert_eq!(answer.status(), 200, "{case}: {}", answer.text().await.unwrap());
                parts.insert(number, part);
            }
            let bytes = parts.values().copied().collect::<Vec<_>>().concat();
            let answer = service.merge(&link, parts.len(), &bytes).await;
            assert_eq!(answer.status(), 200, "{case}: {}", answer.text().await.unwrap());
            assert!(service.read(&link.uid).await == bytes, "{case}");
            service.wait_until_merged(&link.uid).await;
            assert!(service.read(&link.uid).await == bytes, "{case}, merged");
        }
        service.database().wait_until_idle().await;
        assert_eq!(service.objects().len(), count);
        service.assert_consistent().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_false_md5_makes_a_file_corrupt_and_its_bytes_go() {
    on_each(async |store: Store| {
        let mut service =
            Service::start_on_store(&store, None, &[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
        let bytes = content(6, MIN + 10);
        let link = service.upload_link("x.bin").await;
        service.put_parts(&link, &[&bytes[..MIN], &bytes[MIN..]]).await;
        assert_eq!(merge_falsely(&service, &link, 2, bytes.len()).await, 200);
        eventually("the mismatch is detected", async || {
            service.download_link(&link.uid).await.is_none().then_some(())
        })
        .await;
        service.database().wait_until_idle().await;
        assert!(service.objects().is_empty());
        service.assert_consistent().await;
    })
    .await;
}

/// Content that changed in the store is never verified.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn what_was_damaged_in_the_store_is_not_verified() {
    on_each(async |store: Store| {
        let service = Service::start_on_store(&store, None, &[("TASKS__MAX_ATTEMPTS", "1")]).await;
        service.database().hold_task("verify_blob").await;
        let bytes = content(7, MIN + 10);
        let link = service.upload_link("x.bin").await;
        service.put_parts(&link, &[&bytes[..MIN], &bytes[MIN..]]).await;
        let url = format!("{}&num=2&size={}", link.url.multi.merge, bytes.len());
        assert_eq!(service.client().put(service.url(&url)).send().await.unwrap().status(), 200);
        let (backend, key) = (store.backend(), Key::parse(&format!("unknown/{}.bin", link.uid)).unwrap());
        let mut damaged = bytes.clone();
        damaged[MIN + 5] ^= 1;
        let size = osproxy_storage::SizeHint::Exact(damaged.len() as u64);
        let mut writer = backend.create(&key, size).await.unwrap();
        writer.write(damaged.into()).await.unwrap();
        writer.finish().await.unwrap();
        writer.publish().await.unwrap();
        service.database().release_merges().await;
        let dead = "SELECT error FROM task_attempts WHERE outcome = 'failed'";
        let said = eventually("the mismatch is detected", async || service.sql(dead).await.pop()).await;
        assert!(said.contains("part 2 was damaged"), "{said}");
        assert_eq!(service.instant_upload(&[(&md5_hex(&bytes), "x.bin")]).await[0].uid, "");
    })
    .await;
}

/// The process died after the store started a multipart upload and before its id was committed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn an_upload_whose_name_was_lost_in_a_crash_does_not_stay() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[("UPLOADS__EXPIRED_RETENTION", "0")]).await;
        let bytes = content(8, MIN + 10);
        let (link, gone) = (service.upload_link("x.bin").await, service.upload_link("gone.bin").await);
        for link in [&link, &gone] {
            service.put_parts(link, &[&bytes[..MIN]]).await;
        }
        service.kill().await;
        service.sql("DELETE FROM parts").await;
        service.sql("UPDATE blobs SET upload_id = '', native_highest = 1").await;
        service.sql(&format!("UPDATE files SET expires_at = 1 WHERE uid = {}", gone.uid)).await;
        service.restart().await;
        assert_eq!(service.checkpoint(&link.uid).await, [0; 0]);
        service.put_parts(&link, &[&bytes[..MIN], &bytes[MIN..]]).await;
        assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
        service.wait_until_merged(&link.uid).await;
        eventually("both multipart uploads are aborted", async || {
            (service.objects() == [format!("unknown/{}.bin", link.uid)]).then_some(())
        })
        .await;
        assert!(service.read(&link.uid).await == bytes);
        service.database().wait_until_idle().await;
        service.assert_consistent().await;
    })
    .await;
}

/// The process died before and after the store completed a multipart upload.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_completion_that_was_cut_off_goes_on() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let bytes = content(9, MIN + 10);
        let done_by_the_store = [false, true];
        let mut links = Vec::new();
        for done in done_by_the_store {
            let link = service.upload_link("x.bin").await;
            let bytes = [&bytes[..], &[u8::from(done)]].concat();
            service.put_parts(&link, &[&bytes[..MIN], &bytes[MIN..]]).await;
            service.database().reject_changes("late", "BEFORE UPDATE", "files", "NEW.state = 'stored'").await;
            if done {
                // The store completes it, but the result cannot be recorded.
                assert_eq!(service.merge(&link, 2, &bytes).await.status(), 503);
                assert!(service.objects().contains(&format!("unknown/{}.bin", link.uid)));
            } else {
                let (uid, size) = (&link.uid, bytes.len());
                service
                    .sql(&format!("UPDATE files SET state = 'completing', part_count = 2 WHERE uid = {uid}"))
                    .await;
                service.sql(&format!("UPDATE blobs SET size = {size} WHERE id = {uid}")).await;
            }
            assert!(service.download_link(&link.uid).await.is_none());
            links.push((link, bytes));
            service.kill().await;
            service.database().allow_changes("late", "files").await;
            service.restart().await;
        }
        for (link, bytes) in &links {
            eventually("the upload is complete", async || {
                service.download_link(&link.uid).await.is_some().then_some(())
            })
            .await;
            assert!(service.read(&link.uid).await == *bytes);
            assert_eq!(service.merge(link, 2, bytes).await.status(), 200);
        }
        service.database().wait_until_idle().await;
        service.assert_consistent().await;
    })
    .await;
}

/// Lifecycle rules of a bucket may abort uploads that take long.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn parts_that_the_store_has_dropped_are_told_and_can_be_sent_again() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let bytes = content(10, 2 * MIN + 10);
        let parts: Vec<_> = bytes.chunks(MIN).collect();
        let (backend, multipart) = (store.backend(), store.backend());
        for at in ["part", "merge"] {
            let link = service.upload_link("x.bin").await;
            service.put_parts(&link, &parts[..2]).await;
            let key = Key::parse(&format!("unknown/{}.bin", link.uid)).unwrap();
            let upload = upload_id(backend.multipart().unwrap(), &key).await;
            if at == "merge" {
                service.put_part(&link, 3, parts[2]).await;
            }
            multipart.multipart().unwrap().abort(&key, &upload).await.unwrap();
            if at == "merge" {
                let said = expect_v0_error(service.merge(&link, 3, &bytes).await, 422).await;
                assert!(said.contains("missing: 1-3"), "{said}");
            } else {
                assert_eq!(service.put_part(&link, 3, parts[2]).await.status(), 503);
            }
            assert_eq!(service.checkpoint(&link.uid).await, [0; 0]);
            service.put_parts(&link, &parts).await;
            assert_eq!(service.merge(&link, 3, &bytes).await.status(), 200);
            assert!(service.read(&link.uid).await == bytes);
        }
        service.database().wait_until_idle().await;
        service.assert_consistent().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn what_nothing_names_in_the_store_is_told_and_deleted_only_when_that_is_asked_for() {
    on_each(async |store: Store| {
        let mut service = Service::start_on_store(&store, None, &[]).await;
        let link = service.upload_link("x.bin").await;
        let bytes = content(11, MIN + 10);
        service.put_parts(&link, &[&bytes[..MIN], &bytes[MIN..]]).await;
        let (backend, key) = (store.backend(), Key::parse("unknown/1.bin").unwrap());
        let of_blob = Key::parse(&format!("unknown/{}.bin", link.uid)).unwrap();
        let uploads = backend.multipart().unwrap();
        uploads.begin(&key, None).await.unwrap();
        let upload = upload_id(uploads, &of_blob).await;
        // A second multipart upload for the same key is aborted with it.
        let second = uploads.begin(&of_blob, None).await.unwrap();
        service.kill().await;
        let (code, said) = service.cli(&["fsck", "--repair"]).await;
        assert_eq!(code, 4, "{said}");
        assert!(said.contains("unknown/1.bin is an orphan: no row names it\n"), "{said}");
        let (code, said) = service.cli(&["fsck", "--delete-orphans"]).await;
        assert_eq!(code, 3, "{said}");
        let (code, said) = service.cli(&["fsck"]).await;
        assert_eq!(code, 0, "{said}");
        // Parts that the store has lost are reported, and can be sent again.
        uploads.abort(&of_blob, &upload).await.unwrap();
        let (code, said) = service.cli(&["fsck", "--repair"]).await;
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("the store has lost parts [1, 2]"), "{said}");
        service.restart().await;
        service.put_parts(&link, &[&bytes[..MIN], &bytes[MIN..]]).await;
        assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
        assert!(service.read(&link.uid).await == bytes);
        service.wait_until_merged(&link.uid).await;
        assert_eq!(service.objects(), [of_blob.to_string()], "{second} was not aborted");
        // Without an upload session, a multipart upload is reported.
        uploads.begin(&of_blob, None).await.unwrap();
        service.kill().await;
        let (code, said) = service.cli(&["fsck", "--repair"]).await;
        assert_eq!(code, 3, "{said}");
        assert!(said.contains(&format!("{of_blob} belongs to no upload session: repaired\n")), "{said}");
        assert_eq!(service.cli(&["fsck"]).await.0, 0);
    })
    .await;
}

/// A new default store does not affect files stored before.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn files_stay_where_they_are_when_new_ones_go_elsewhere() {
    let store = Store::new(StoreServer::S3);
    let mut service = Service::start_on_store(&store, None, &[("LOCAL__ENABLED", "true")]).await;
    let (old, new) = (content(12, 300_000), content(13, 300_000));
    let first = service.store("old.bin", &old).await;
    let begun = service.upload_link("begun.bin").await;
    service.put_parts(&begun, &[&old[..100]]).await;
    assert!(service.objects().is_empty(), "an object is in s3 instead of local");
    service.set_setting("STORES__UPLOAD_TO", "s3");
    service.kill().await;
    service.restart().await;
    let second = service.store("new.bin", &new).await;
    assert_eq!(service.objects(), [format!("unknown/{second}.bin")]);
    service.put_parts(&begun, &[&old[..100], b"more"]).await;
    assert_eq!(service.merge(&begun, 2, &[&old[..100], b"more"].concat()).await.status(), 200);
    // The same content shares the blob, whichever store has it.
    let third = service.store("old-again.bin", &old).await;
    assert_eq!(service.objects().len(), 1);
    for (uid, bytes) in [(&first, &old), (&second, &new), (&third, &old)] {
        assert!(service.read(uid).await == *bytes);
    }
    service.wait_until_merged(&begun.uid).await;
    service.assert_consistent().await;
}

/// Forms do not declare the length of their content, nor do chunked bodies.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn content_of_unknown_length_is_stored_whatever_its_length() {
    for server in [StoreServer::S3, StoreServer::Cos] {
        let store = Store::new(server);
        let mut service = Service::start_on_store(&store, None, &[]).await;
        for (seed, len) in [(15, 0), (16, 1), (17, 8 << 20), (18, (8 << 20) + 1), (19, 20_000_001)] {
            let bytes = content(seed, len);
            let link = service.upload_link("x.bin").await;
            let form =
                reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(bytes.clone()));
            let url = service.url(&link.url.single);
            let answer = service.client().put(url).multipart(form).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{len}: {}", answer.text().await.unwrap());
            let chunked = service.upload_link("chunked.bin").await;
            let chunks: Vec<_> =
                bytes.chunks(100_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
            let part = service.url(&format!("{}&chunkNum=1", chunked.url.multi.upload));
            let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks).boxed());
            if len > 0 {
                assert_eq!(service.client().put(part).body(body).send().await.unwrap().status(), 200);
                assert_eq!(service.merge(&chunked, 1, &bytes).await.status(), 200);
                assert!(service.read(&chunked.uid).await == bytes, "{len}");
            }
            assert!(service.read(&link.uid).await == bytes, "{len}");
        }
        service.database().wait_until_idle().await;
        service.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_store_that_does_not_let_us_in_is_named_and_no_secret_shown() {
    for server in [StoreServer::S3, StoreServer::Cos, StoreServer::Oss] {
        let mut settings = Store::new(server).settings();
        for (name, value) in &mut settings {
            if name.ends_with("SECRET_ACCESS_KEY")
                || name.ends_with("SECRET_KEY")
                || name.ends_with("KEY_SECRET")
            {
                *value = "wrong-but-still-secret".to_owned();
            }
        }
        settings.push(("LOG__LEVEL".to_owned(), "trace".to_owned()));
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["serve", "--listen", "127.0.0.1:0"];
        let (status, _, said) = crate::support::spawn_failing(folder.path(), &settings, &arguments).await;
        assert!(!status.success(), "{server:?}");
        assert!(said.contains("match the access key") || said.contains("check the access key"), "{said}");
        assert!(!said.contains("wrong-but-still-secret"), "{server:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn connections_are_encrypted_and_certificates_checked() {
    let store = Store::new(StoreServer::S3Tls);
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let (status, _, said) = crate::support::spawn_failing(folder.path(), &store.settings(), &arguments).await;
    assert!(!status.success(), "no error about the certificate: {said}");
    let ca = std::env::var("OSPROXY_TEST_CA").unwrap();
    let mut service = Service::start_on_store(
        &store,
        None,
        &[("STORES__CA_FILE", &ca), ("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")],
    )
    .await;
    let bytes = content(21, MIN + 100);
    let uid = service.store_in_parts("x.bin", &bytes, MIN).await;
    service.wait_until_merged(&uid).await;
    assert!(service.read(&uid).await == bytes);
    // Read twice: by the verification, and now.
    service.signal(rustix::process::Signal::TERM);
    service.exit_status().await;
    let (written, read) = (bytes.len(), 2 * bytes.len());
    let counted = format!("read_bytes={read} written_bytes={written}");
    assert!(service.log().contains(&counted), "{}", service.log());
}
