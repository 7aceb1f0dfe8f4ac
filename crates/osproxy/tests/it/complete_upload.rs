use std::time::Instant;

use osproxy_api::{v0::UploadLinks, v1::FileState};
use serde_json::json;

use crate::support::{
    PATIENCE, Service, amount, content, eventually, expect_problem, expect_v0_error, md5_hex,
};

/// Polls for tasks every second, so that held tasks resume soon.
async fn start() -> Service {
    Service::start_with(&[("TASKS__POLL_INTERVAL", "1")]).await
}

#[tokio::test]
async fn it_can_be_read_at_once_ranges_included() {
    let mut service = start().await;
    let bytes = content(1, 1_000_000);
    let link = service.upload_link("x.bin").await;
    // Parts of all sizes, one of them empty.
    let cuts = [0, 1, 1, 300_000, 300_001, 999_999, 1_000_000];
    let parts: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
    service.put_parts(&link, &parts).await;
    service.database().hold_merges().await;
    assert_eq!(service.merge(&link, parts.len(), &bytes).await.status(), 200);
    let file = service.download_link(&link.uid).await.unwrap();
    assert_eq!((file.meta.md5.as_str(), file.meta.size.as_str()), (md5_hex(&bytes).as_str(), "1000000"));
    let ranges = [
        (0, 1),
        (0, 2),
        (1, 300_000),
        (299_999, 300_002),
        (300_000, 300_001),
        (999_998, 1_000_000),
        (0, 1_000_000),
    ];
    let mut tag = None;
    for layout in ["parts", "whole"] {
        for (start, end) in ranges {
            let range = format!("bytes={start}-{}", end - 1);
            let answer =
                service.client().get(service.url(&file.url)).header("range", range).send().await.unwrap();
            assert_eq!(answer.status(), 206);
            let now = answer.headers()["etag"].clone();
            assert_eq!(*tag.get_or_insert_with(|| now.clone()), now, "the content has not changed");
            assert!(answer.bytes().await.unwrap() == bytes[start..end], "{start}..{end}");
        }
        let answer =
            service.client().get(service.url(&file.url)).header("range", "bytes=1000000-").send().await;
        assert_eq!(answer.unwrap().status(), 416);
        assert!(service.read(&link.uid).await == bytes);
        if layout == "parts" {
            assert!(service.objects().len() > 1, "it is already merged");
            service.database().release_merges().await;
            service.wait_until_merged(&link.uid).await;
        }
    }
    service.assert_consistent().await;
}

#[tokio::test]
async fn parts_missing_or_a_wrong_size_are_refused_and_it_stays_completable() {
    let mut service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let merge = async |query: &str| {
        let url = service.url(&format!("{}{query}", link.url.multi.merge));
        service.client().put(url).send().await.unwrap()
    };
    expect_v0_error(merge("&num=1&size=0").await, 422).await;
    for (number, part) in [(1, b"one"), (3, b"333")] {
        assert_eq!(service.put_part(&link, number, part).await.status(), 200);
    }
    assert!(expect_v0_error(merge("&num=3&size=9").await, 422).await.contains("missing: 2"));
    assert!(expect_v0_error(merge("&num=2&size=6").await, 422).await.contains("missing: 2"));
    assert!(expect_v0_error(merge("&num=20&size=6").await, 422).await.contains("2, 4-20"));
    service.put_parts(&link, &[b"one", b"two"]).await;
    assert!(expect_v0_error(merge("&num=2&size=6").await, 422).await.contains("3 parts"));
    assert!(expect_v0_error(merge("&num=3&size=8").await, 422).await.contains("9 bytes"));
    for query in [
        "",
        "&num=3",
        "&size=9",
        "&num=0&size=9",
        "&num=-3&size=9",
        "&num=x&size=9",
        "&num=3&size=x",
        "&num=3&size=-9",
        "&num=10001&size=9",
        "&num=3&size=18446744073709551616",
        "&num=3&size=9&md5=short",
    ] {
        expect_v0_error(merge(query).await, 422).await;
    }
    expect_v0_error(merge("&num=3&size=18446744073709551615").await, 413).await;
    assert!(service.download_link(&link.uid).await.is_none());
    assert_eq!(merge("&num=3&size=9").await.status(), 200);
    assert_eq!(service.read(&link.uid).await, b"onetwo333");
    service.wait_until_merged(&link.uid).await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn merge_sent_twice_is_harmless_and_one_of_something_else_is_refused() {
    let service = start().await;
    service.database().hold_merges().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"one", b"two"]).await;
    let both =
        futures_util::future::join(service.merge(&link, 2, b"onetwo"), service.merge(&link, 2, b"onetwo"));
    let (one, other) = both.await;
    assert_eq!((one.status().as_u16(), other.status().as_u16()), (200, 200));
    let again = async || {
        assert_eq!(service.merge(&link, 2, b"onetwo").await.status(), 200);
        expect_v0_error(service.merge(&link, 2, b"twoone").await, 422).await;
        expect_v0_error(service.merge(&link, 3, b"onetwo").await, 422).await;
        expect_v0_error(service.merge(&link, 2, b"onetwo!").await, 422).await;
    };
    again().await;
    assert_eq!(service.sql("SELECT count(*) FROM tasks WHERE kind = 'merge_parts'").await, ["1"]);
    service.database().release_merges().await;
    service.wait_until_merged(&link.uid).await;
    again().await;
    assert_eq!(service.read(&link.uid).await, b"onetwo");
}

#[tokio::test]
async fn empty_files_and_single_parts_work() {
    let mut service = Service::start().await;
    for bytes in [&b""[..], b"x"] {
        let link = service.upload_link("x.bin").await;
        service.put_parts(&link, &[bytes]).await;
        assert_eq!(service.merge(&link, 1, bytes).await.status(), 200);
        assert_eq!(service.read(&link.uid).await, bytes);
        service.wait_until_merged(&link.uid).await;
        assert_eq!(service.read(&link.uid).await, bytes);
    }
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_false_md5_makes_the_file_corrupt() {
    let mut service = Service::start_with(&[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"one", b"two"]).await;
    let url = format!("{}&num=2&size=6&md5={}", link.url.multi.merge, md5_hex(b"other"));
    let answer = service.client().put(service.url(&url)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    eventually("the mismatch is detected", async || {
        (service.sql("SELECT state FROM files").await == ["corrupt"]).then_some(())
    })
    .await;
    eventually("its object is removed", async || service.objects().is_empty().then_some(())).await;
    let stored = service.store("y.bin", b"y").await;
    let good = service.download_link(&stored).await.unwrap().url;
    assert!(service.download_link(&link.uid).await.is_none());
    assert_eq!(service.get(&good).await.status(), 200);
    for md5 in [md5_hex(b"onetwo"), md5_hex(b"other")] {
        assert_eq!(service.instant_upload(&[(&md5, "z.bin")]).await[0].uid, "");
    }
    expect_v0_error(service.put_part(&link, 1, b"one").await, 404).await;
    eventually("the row is gone", async || {
        (service.sql("SELECT count(*) FROM blobs").await == ["1"]).then_some(())
    })
    .await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn digests_of_small_content_are_verified_before_the_answer() {
    let mut service = Service::start().await;
    // No task verifies anything later.
    let tasks = "NEW.state = 'running' AND NEW.kind IN ('merge_parts', 'verify_blob')";
    service.database().reject_changes("held", "BEFORE UPDATE", "tasks", tasks).await;
    let bytes = content(5, 100_000);
    let false_md5 = |link: &UploadLinks, size: usize| {
        format!("{}&num=2&size={size}&md5={}", link.url.multi.merge, md5_hex(b"other"))
    };
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[&bytes[..60_000], &bytes[60_000..]]).await;
    let refusal = expect_v0_error(service.put(&false_md5(&link, bytes.len()), b"").await, 422).await;
    assert!(refusal.contains("md5"), "{refusal}");
    assert!(service.download_link(&link.uid).await.is_none(), "it was readable");
    // After a store has completed its multipart upload, the parts no longer exist.
    if std::env::var("OSPROXY_TEST_STORE").is_err() {
        assert_eq!(service.checkpoint(&link.uid).await, [1, 2], "stored parts were lost");
        assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
        assert!(service.read(&link.uid).await == bytes);
    }
    // With a part layout, the object exists before its digests are verified, on every store.
    for digest in ["md5", "sha256"] {
        let wish = json!({"name": "y.bin", "size": bytes.len(), digest: hex::encode([7; 32])
            .chars().take(if digest == "md5" { 32 } else { 64 }).collect::<String>()});
        let upload = service.create_upload(&wish).await;
        assert_eq!(service.v1_put_part(&upload, 1, &bytes).await.status(), 204);
        expect_problem(service.v1_complete(&upload).await, 422, "digest_mismatch").await;
        let file = service.describe(&upload.uid).await;
        assert_eq!((file.state, file.size), (FileState::Corrupt, Some(bytes.len() as u64)));
        expect_problem(service.v1_complete(&upload).await, 410, "file_corrupt").await;
    }
    // Without an announced size, the BLAKE3 digests of the parts cannot be combined, so the parts
    // are read.
    let upload = service.create_upload(&json!({"name": "y.bin"})).await;
    for (number, part) in [(1, &bytes[..60_000]), (2, &bytes[60_000..])] {
        assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
    }
    let complete = upload.links.as_ref().unwrap().complete.clone();
    let claim = service.client().post(service.url(&complete)).json(&json!({"blake3": hex::encode([7; 32])}));
    expect_problem(claim.send().await.unwrap(), 422, "digest_mismatch").await;
    let wish = json!({"name": "z.bin", "size": bytes.len(), "md5": md5_hex(&bytes)});
    let upload = service.create_upload(&wish).await;
    assert_eq!(service.v1_put_part(&upload, 1, &bytes).await.status(), 204);
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    service.database().release_merges().await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
    // Beyond the limit, a task finds it out afterwards.
    service.set_setting("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "99999");
    service.restart().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[&bytes[..60_000], &bytes[60_000..]]).await;
    assert_eq!(service.put(&false_md5(&link, bytes.len()), b"").await.status(), 200);
}

#[tokio::test]
async fn a_link_issued_before_says_why_a_corrupt_file_cannot_be_read() {
    let service =
        Service::start_with(&[("TASKS__POLL_INTERVAL", "1"), ("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")])
            .await;
    service.database().hold_merges().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"one"]).await;
    let url = format!("{}&num=1&size=3&md5={}", link.url.multi.merge, md5_hex(b"other"));
    assert_eq!(service.client().put(service.url(&url)).send().await.unwrap().status(), 200);
    let url = service.download_link(&link.uid).await.unwrap().url;
    assert_eq!(service.get(&url).await.status(), 200);
    service.database().release_merges().await;
    eventually("it is corrupt", async || (service.get(&url).await.status() == 404).then_some(())).await;
    assert!(
        expect_v0_error(service.get(&url).await, 404).await.contains("did not match the expected digests")
    );
}

#[tokio::test]
async fn content_serves_instant_uploads_when_it_is_verified_and_not_before() {
    let service = start().await;
    service.database().hold_merges().await;
    let bytes = content(3, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 40_000).await;
    let md5 = md5_hex(&bytes);
    assert_eq!(service.instant_upload(&[(&md5, "y.bin")]).await[0].uid, "");
    service.database().release_merges().await;
    service.wait_until_merged(&uid).await;
    let instant = service.instant_upload(&[(&md5, "y.bin")]).await.remove(0).uid;
    assert!(service.read(&instant).await == bytes);
}

#[tokio::test]
async fn content_that_is_known_is_shared() {
    let mut service = start().await;
    let bytes = content(4, 500_000);
    let first = service.store("x.bin", &bytes).await;
    let url = service.download_link(&first).await.unwrap().url;
    let second = service.store_in_parts("y.mp4", &bytes, 200_000).await;
    let third = service.store_in_parts("z.bin", &bytes, 499_999).await;
    for uid in [&second, &third] {
        service.wait_until_merged(uid).await;
        assert!(service.read(uid).await == bytes);
    }
    eventually("one object remains", async || (service.objects().len() == 1).then_some(())).await;
    assert_eq!(service.sql("SELECT refs FROM blobs WHERE state = 'stored'").await, ["3"]);
    assert_eq!(service.get(&url).await.status(), 200);
    eventually("the other blobs are removed", async || {
        (service.sql("SELECT count(*) FROM blobs").await == ["1"]).then_some(())
    })
    .await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn what_shares_content_is_still_what_its_client_sent() {
    let service = start().await;
    let bytes = content(6, 300_000);
    service.store_in_parts("x.bin", &bytes, 100_000).await;
    let link = service.upload_link("y.bin").await;
    let parts: Vec<_> = bytes.chunks(150_000).collect();
    service.put_parts(&link, &parts).await;
    for _ in 0..2 {
        assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
        assert_eq!(service.checkpoint(&link.uid).await, [1, 2]);
        service.wait_until_merged(&link.uid).await;
    }
}

/// Nobody has these bytes, so an instant upload must not find them.
#[tokio::test]
async fn content_that_was_only_claimed_is_not_there() {
    let service =
        Service::start_with(&[("TASKS__POLL_INTERVAL", "1"), ("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")])
            .await;
    service.database().hold_merges().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"one"]).await;
    let url = format!("{}&num=1&size=3&md5={}", link.url.multi.merge, md5_hex(b"two"));
    assert_eq!(service.put(&url, b"").await.status(), 200);
    expect_v0_error(service.put(&link.url.single, b"two").await, 422).await;
}

#[tokio::test]
async fn content_that_was_lost_is_mended_by_a_merge() {
    let mut service = start().await;
    let bytes = content(5, 300_000);
    let lost = service.store("x.bin", &bytes).await;
    std::fs::remove_file(service.object_path(format!("unknown/{lost}.bin"))).unwrap();
    let uid = service.store_in_parts("y.bin", &bytes, 100_000).await;
    service.wait_until_merged(&uid).await;
    for uid in [&uid, &lost] {
        assert!(service.read(uid).await == bytes);
    }
    eventually("one object remains", async || (service.objects().len() == 1).then_some(())).await;
    eventually("one blob is left", async || {
        (service.sql("SELECT count(*) FROM blobs").await == ["1"]).then_some(())
    })
    .await;
    service.assert_consistent().await;
}

/// Slow readers, which see the layout change repeatedly.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_sees_a_wrong_byte_while_parts_are_merged() {
    let service = start().await;
    for round in 0..amount(12, 50) {
        let bytes = content(round, 3_000_000);
        // Every third content is known already, so that the file moves to another blob.
        if round % 3 == 0 {
            service.store("known.bin", &bytes).await;
        }
        let uid = service.store_in_parts("x.bin", &bytes, 250_000).await;
        let url = service.url(&service.download_link(&uid).await.unwrap().url);
        let mut answer = service.client().get(&url).send().await.unwrap();
        let first = answer.chunk().await.unwrap().unwrap();
        let mut reads = 0;
        let begun = Instant::now();
        let merged = format!(
            "SELECT count(*) FROM parts JOIN files ON files.blob_id = parts.blob_id WHERE uid = {uid}"
        );
        loop {
            let whole = service.sql(&merged).await == ["0"];
            let again = service.client().get(&url).header("range", "bytes=1000-").send().await.unwrap();
            assert_eq!(again.status(), 206);
            assert!(again.bytes().await.unwrap() == bytes[1000..], "round {round}, read {reads}");
            reads += 1;
            if whole {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "round {round} is not merged:\n{}", service.log());
        }
        // This download begins before the merge and ends after it.
        let mut read = first.to_vec();
        while let Some(chunk) = answer.chunk().await.unwrap() {
            read.extend_from_slice(&chunk);
        }
        assert!(read == bytes, "round {round}");
    }
}

#[tokio::test]
async fn unknown_uids_are_told() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    service.sql("DELETE FROM files").await;
    expect_v0_error(service.merge(&link, 1, b"x").await, 404).await;
    let answer = service.post("/link/download", &json!({"uid": [link.uid], "expire": 60})).await;
    assert_eq!(answer.status(), 200);
}

/// A flipped bit on the disk must neither become content nor cause intact bytes to be deleted.
#[tokio::test]
async fn a_part_that_was_damaged_is_not_merged_and_nothing_is_removed() {
    let service = start().await;
    for announced in [true, false] {
        service.database().hold_merges().await;
        let link = service.upload_link("x.bin").await;
        service.put_parts(&link, &[b"one", b"two"]).await;
        let md5 = if announced { format!("&md5={}", md5_hex(b"onetwo")) } else { String::new() };
        let url = format!("{}&num=2&size=6{md5}", link.url.multi.merge);
        assert_eq!(service.put(&url, b"").await.status(), 200);
        let part = service.object_path(format!("unknown/{}_2", link.uid));
        std::fs::write(&part, "tWo").unwrap();
        service.database().release_merges().await;
        let error =
            format!("SELECT last_error FROM tasks WHERE state = 'dead' AND payload LIKE '%{}%'", link.uid);
        eventually("the task is dead", async || {
            (service.sql(&error).await == ["part 2 was damaged in the store"]).then_some(())
        })
        .await;
        assert_eq!(service.instant_upload(&[(&md5_hex(b"onetWo"), "y.bin")]).await[0].uid, "");
        // Once the part is restored, it can be merged.
        std::fs::write(&part, "two").unwrap();
        let id = service.sql("SELECT id FROM tasks WHERE state = 'dead'").await.remove(0);
        assert_eq!(service.cli(&["tasks", "retry", &id]).await.0, 0);
        service.wait_until_merged(&link.uid).await;
        assert_eq!(service.read(&link.uid).await, b"onetwo");
    }
}

#[tokio::test]
async fn a_file_that_came_whole_is_not_taken_for_the_parts_that_were_sent_beside_it() {
    let service = start().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"part"]).await;
    assert_eq!(service.put(&link.url.single, b"PART").await.status(), 200);
    let url = format!("{}&num=1&size=4", link.url.multi.merge);
    expect_v0_error(service.put(&url, b"").await, 422).await;
    expect_v0_error(service.put(&format!("{url}&md5={}", md5_hex(b"part")), b"").await, 422).await;
    assert_eq!(service.put(&format!("{url}&md5={}", md5_hex(b"PART")), b"").await.status(), 200);
}

#[tokio::test]
async fn an_md5_that_is_said_too_late_is_not_agreed_to() {
    let service = start().await;
    service.database().hold_merges().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"part"]).await;
    let url = format!("{}&num=1&size=4", link.url.multi.merge);
    assert_eq!(service.put(&url, b"").await.status(), 200);
    expect_v0_error(service.put(&format!("{url}&md5={}", md5_hex(b"else")), b"").await, 422).await;
    service.database().release_merges().await;
    service.wait_until_merged(&link.uid).await;
    expect_v0_error(service.put(&format!("{url}&md5={}", md5_hex(b"else")), b"").await, 422).await;
    assert_eq!(service.put(&format!("{url}&md5={}", md5_hex(b"part")), b"").await.status(), 200);
}

/// The process is killed after the file became one object and before its parts were removed.
#[tokio::test]
async fn parts_that_were_left_by_a_crash_are_removed_by_the_next_attempt() {
    let mut service = start().await;
    service.database().reject_changes("kept", "BEFORE DELETE", "parts", "1 = 1").await;
    let bytes = content(8, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 40_000).await;
    let whole = "SELECT layout FROM blobs WHERE state = 'stored'";
    eventually("it is one object", async || (service.sql(whole).await == ["whole"]).then_some(())).await;
    service.kill().await;
    service.database().allow_changes("kept", "parts").await;
    service.restart().await;
    service.wait_until_merged(&uid).await;
    assert_eq!(service.objects(), [format!("unknown/{uid}.bin")]);
    assert!(service.read(&uid).await == bytes);
    service.assert_consistent().await;
}

/// If the merged object turns out to be damaged, its parts must not be deleted.
#[tokio::test]
async fn parts_are_kept_when_the_merged_object_is_damaged() {
    let mut service = start().await;
    service.database().reject_changes("kept", "BEFORE DELETE", "parts", "1 = 1").await;
    let uid = service.store_in_parts("x.bin", &content(8, 100_000), 40_000).await;
    let whole = "SELECT layout FROM blobs WHERE state = 'stored'";
    eventually("it is one object", async || (service.sql(whole).await == ["whole"]).then_some(())).await;
    service.kill().await;
    service.database().allow_changes("kept", "parts").await;
    std::fs::write(service.object_path(format!("unknown/{uid}.bin")), "cut").unwrap();
    service.restart().await;
    let error = "SELECT last_error FROM tasks WHERE state = 'dead'";
    eventually("the task is dead", async || {
        (service.sql(error).await == ["the merged object is damaged; its parts are kept"]).then_some(())
    })
    .await;
    assert_eq!(service.sql("SELECT count(*) FROM parts").await, ["3"]);
}
