//! Packs: small content shares files.

use std::path::PathBuf;

use futures_util::{StreamExt, stream};
use osproxy_api::v1::File;
use reqwest::{Method, header::RANGE};

use crate::support::{Service, content, eventually, expect_json, expect_problem};

const PACKED: (&str, &str) = ("LOCAL__PACK_BELOW", "64KiB");

fn packs(service: &Service) -> Vec<PathBuf> {
    let folder = service.objects_folder().join("packs");
    let mut packs: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    packs.sort();
    packs
}

async fn delete(service: &Service, uid: &str) {
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
}

async fn wait_until_idle(service: &Service) {
    service.database().wait_until_idle().await;
}

#[tokio::test]
async fn small_content_goes_to_a_pack_and_large_content_does_not() {
    let mut service = Service::start_with(&[PACKED]).await;
    let sizes = [0, 1, 63, 64, 65, 4096, 65_535, 65_536];
    let mut files = Vec::new();
    for (seed, size) in (0..).zip(sizes) {
        files.push((service.store("x.bin", &content(seed, size)).await, content(seed, size)));
    }
    assert_eq!(service.objects(), [""; 0]);
    assert_eq!(packs(&service).len(), 1);
    let large = content(9, 65_537);
    let object = service.store("x.bin", &large).await;
    assert_eq!(service.objects().len(), 1);
    // A body of unknown length is small or not by what arrives.
    let chunked = |bytes: Vec<u8>| {
        let chunks: Vec<_> =
            bytes.chunks(10_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
        reqwest::Body::wrap_stream(stream::iter(chunks))
    };
    for (seed, size, objects) in [(10, 50_000, 1), (11, 100_000, 2)] {
        let bytes = content(seed, size);
        let link = service.upload_link("x.bin").await;
        let answer = service.client().put(service.url(&link.url.single)).body(chunked(bytes.clone()));
        assert_eq!(answer.send().await.unwrap().status(), 200);
        assert_eq!(service.objects().len(), objects);
        files.push((link.uid, bytes));
    }
    files.push((object, large));
    service.kill_and_restart().await;
    for (uid, bytes) in &files {
        assert!(service.read(uid).await == *bytes, "{uid}");
    }
    let (uid, bytes) = &files[5];
    let link = service.download_link(uid).await.unwrap();
    let range = service.client().get(service.url(&link.url)).header(RANGE, "bytes=100-199");
    assert_eq!(*range.send().await.unwrap().bytes().await.unwrap(), bytes[100..200]);
    let (status, text) = service.cli(&["scrub"]).await;
    assert_eq!(status, 0, "{text}");
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_small_file_is_created_with_its_content() {
    let mut service = Service::start_with(&[PACKED]).await;
    let post = async |service: &Service, name: &str, bytes: &[u8]| {
        let url = service.url(&format!("/api/v1/files?name={name}&metadata=%7B%22case%22%3A%2217%22%7D"));
        service.client().post(url).body(bytes.to_vec()).send().await.unwrap()
    };
    let mut files = Vec::new();
    for (seed, size) in (1..).zip([0, 1, 16_000, 65_536, 65_537]) {
        let bytes = content(seed, size);
        let file: File = expect_json(post(&service, "a.txt", &bytes).await, 201).await;
        // The record of the answer is that of the database.
        assert_eq!(
            file,
            expect_json(service.v1(Method::GET, &format!("/files/{}", file.uid), None).await, 200).await
        );
        assert_eq!((file.size, &*file.metadata["case"]), (Some(size as u64), "17"));
        files.push((file.uid, bytes));
    }
    // Only the last one is an object.
    assert_eq!(service.objects().len(), 1);
    // Known content is shared, and not packed again.
    let (uid, bytes) = files[2].clone();
    let copy: File = expect_json(post(&service, "b.txt", &bytes).await, 201).await;
    assert_eq!(service.sql(&format!("SELECT refs FROM blobs WHERE id = {uid}")).await, ["2"]);
    files.push((copy.uid, bytes));
    service.kill_and_restart().await;
    for (uid, bytes) in &files {
        assert!(service.read(uid).await == *bytes, "{uid}");
    }
    // Deleting the files frees what they were charged.
    let (code, text) = service.cli(&["tenant", "set", "default", "--max-bytes", "200000"]).await;
    assert_eq!(code, 0, "{text}");
    expect_problem(post(&service, "c.bin", &content(9, 64_000)).await, 507, "quota_exceeded").await;
    assert_eq!(service.sql("SELECT count(*) FROM files WHERE listed = 1").await, ["6"]);
    for (uid, _) in &files {
        delete(&service, uid).await;
    }
    expect_json::<File>(post(&service, "c.bin", &content(9, 64_000)).await, 201).await;
    wait_until_idle(&service).await;
    service.assert_consistent().await;
}

/// Requests with the same content at the same time: each gets its file, and one blob remains.
#[tokio::test]
async fn the_same_content_is_created_many_times_at_once() {
    let mut service = Service::start_with(&[PACKED]).await;
    let bytes = content(1, 20_000);
    let post = async || {
        let request = service.client().post(service.url("/api/v1/files?name=a.bin")).body(bytes.clone());
        expect_json::<File>(request.send().await.unwrap(), 201).await.uid
    };
    let uids = futures_util::future::join_all((0..20).map(|_| post())).await;
    for uid in &uids {
        assert!(service.read(uid).await == bytes);
    }
    assert_eq!(service.sql("SELECT refs FROM blobs WHERE state = 'stored'").await, ["20"]);
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_same_content_is_packed_once_and_shared() {
    let service = Service::start_with(&[PACKED]).await;
    let bytes = content(1, 5000);
    let (first, second) = (service.store("x.bin", &bytes).await, service.store("y.bin", &bytes).await);
    assert_eq!(service.sql("SELECT refs FROM blobs").await, ["2"]);
    delete(&service, &first).await;
    wait_until_idle(&service).await;
    assert!(service.read(&second).await == bytes);
    delete(&service, &second).await;
    wait_until_idle(&service).await;
    assert_eq!(service.sql("SELECT count(*) FROM blobs").await, ["0"]);
    assert_eq!(service.sql("SELECT dead FROM packs").await, ["5120"], "header, content and padding");
    // Stored again, it is a new object.
    let third = service.store("z.bin", &bytes).await;
    assert!(service.read(&third).await == bytes);
}

/// Many requests send content for one file at the same time: the first that ends wins.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_writers_of_a_file_wins() {
    let mut service = Service::start_with(&[PACKED]).await;
    for turn in 0..10 {
        let link = service.upload_link("x.bin").await;
        let puts =
            (0..8).map(|seed| {
                let (service, url) = (&service, &link.url.single);
                async move {
                    (seed, service.put(url, &content(turn * 8 + seed % 4, 3000)).await.status().as_u16())
                }
            });
        let answers: Vec<_> = futures_util::future::join_all(puts).await;
        let read = service.read(&link.uid).await;
        for (seed, status) in answers {
            let is_winner = read == content(turn * 8 + seed % 4, 3000);
            assert_eq!(status == 200, is_winner, "{status}");
            assert!(status < 500, "{status}");
        }
    }
    service.assert_consistent().await;
}

/// A body that turns out not to be small counts once.
#[tokio::test]
async fn a_transfer_counts_once_for_its_tenant() {
    let service = Service::start_with(&[PACKED, ("LIMITS__MAX_TENANT_TRANSFERS", "1")]).await;
    let bytes = content(1, 66_000);
    let uid = service.store("x.bin", &bytes).await;
    assert!(service.read(&uid).await == bytes);
}

#[tokio::test]
async fn refused_content_leaves_nothing() {
    let service = Service::start_with(&[PACKED]).await;
    let link = service.upload_link("x.bin").await;
    let wrong = format!("{}&md5=0123456789abcdef0123456789abcdef", link.url.single);
    assert_eq!(service.put(&wrong, b"content").await.status(), 422);
    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single, "Content-Length: 1000\r\n").await;
    connection.send(&[7; 500]).await;
    drop(connection);
    assert_eq!(service.checkpoint(&link.uid).await, [0_u32; 0]);
    assert_eq!(service.sql("SELECT count(*) FROM blobs").await, ["0"]);
    assert!(packs(&service).is_empty());
    assert_eq!(service.put(&link.url.single, b"content").await.status(), 200);
    assert_eq!(service.read(&link.uid).await, b"content");
}

/// Stores a pack and a half, deletes most of the first pack, and lets the task compact it while
/// clients read.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_mostly_dead_is_compacted_under_its_readers() {
    let mut service = Service::start_with(&[PACKED]).await;
    let bytes = |seed| content(seed, 60_000);
    let store = async |seed: u64| (seed, service.store("x.bin", &bytes(seed)).await);
    let files: Vec<_> = stream::iter(0..1300).map(store).buffered(8).collect().await;
    assert_eq!(packs(&service).len(), 2);
    let (dead, live): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(seed, _)| seed % 4 != 0 && *seed < 1000);
    stream::iter(&dead).for_each_concurrent(8, async |(_, uid)| delete(&service, uid).await).await;
    wait_until_idle(&service).await;
    let mut links = Vec::new();
    for (seed, uid) in &live {
        links.push((*seed, service.download_link(uid).await.unwrap().url));
    }
    // The task is due when the node starts.
    service.kill_and_restart().await;
    let compacted = async || {
        for (seed, url) in links.iter().step_by(7) {
            let answer = service.get(url).await;
            assert_eq!(answer.status(), 200);
            assert!(answer.bytes().await.unwrap() == bytes(*seed), "{seed}");
        }
        (service.sql("SELECT number FROM packs WHERE emptied_at IS NOT NULL").await == ["1"]).then_some(())
    };
    eventually("the first pack is compacted", compacted).await;
    let left = service.sql("SELECT object_key FROM blobs WHERE object_key LIKE 'pack-00000001/%'").await;
    assert_eq!(left, [""; 0]);
    for (seed, uid) in &live {
        assert!(service.read(uid).await == bytes(*seed), "{seed}");
    }
    // The file stays for a day.
    assert_eq!(packs(&service).len(), 2);
    service.kill().await;
    service.sql("UPDATE packs SET emptied_at = 1").await;
    service.restart().await;
    let removed = async || (packs(&service).len() == 1).then_some(());
    eventually("the emptied pack is removed", removed).await;
    let forgotten = async || (service.sql("SELECT count(*) FROM packs").await == ["0"]).then_some(());
    eventually("the row of the pack is removed", forgotten).await;
    for (seed, uid) in &live {
        assert!(service.read(uid).await == bytes(*seed), "{seed}");
    }
    service.assert_consistent().await;
}

/// Deleted content does not stay on the disk, even if it is little and in the newest pack.
#[tokio::test]
async fn a_little_dead_space_is_removed_after_a_week() {
    let mut service = Service::start_with(&[PACKED]).await;
    let (kept, gone) = (content(1, 5000), content(2, 5000));
    let (uid, deleted) = (service.store("x.bin", &kept).await, service.store("y.bin", &gone).await);
    delete(&service, &deleted).await;
    wait_until_idle(&service).await;
    service.kill_and_restart().await;
    for (column, file) in [("dead_since", 2), ("emptied_at", 2)] {
        service.kill().await;
        service.sql(&format!("UPDATE packs SET {column} = 1")).await;
        service.restart().await;
        let compacted = async || {
            let left = service.sql("SELECT number FROM packs WHERE emptied_at IS NULL").await;
            (left.is_empty() && packs(&service).iter().any(|pack| pack.ends_with(format!("{file:08x}"))))
                .then_some(())
        };
        eventually("the pack is compacted", compacted).await;
        assert!(service.read(&uid).await == kept);
    }
    let removed = async || (packs(&service).len() == 1).then_some(());
    eventually("the first pack is removed", removed).await;
    let left = std::fs::read(&packs(&service)[0]).unwrap();
    let has = |bytes: &[u8]| left.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(&kept) && !has(&gone));
    assert!(service.read(&uid).await == kept);
    service.assert_consistent().await;
}

/// After a backup of the objects was restored, the database may call a pack empty that is not.
#[tokio::test]
async fn a_pack_with_live_objects_is_not_removed() {
    let mut service = Service::start_with(&[PACKED]).await;
    let bytes = content(1, 5000);
    let uid = service.store("x.bin", &bytes).await;
    service.kill().await;
    service.sql("INSERT INTO packs VALUES ('local', 1, 0, 0, 1), ('local', 7, 0, 0, 1)").await;
    service.restart().await;
    let moved = async || {
        let keys = service.sql("SELECT object_key FROM blobs").await;
        keys[0].starts_with("pack-00000002/").then_some(())
    };
    eventually("the object is moved", moved).await;
    let forgotten = async || (service.sql("SELECT number FROM packs").await == ["1"]).then_some(());
    eventually("the pack that does not exist is forgotten", forgotten).await;
    assert_eq!(packs(&service).len(), 2);
    assert!(service.read(&uid).await == bytes);
    service.kill().await;
    service.sql("UPDATE packs SET emptied_at = 1").await;
    service.restart().await;
    let removed = async || (packs(&service).len() == 1).then_some(());
    eventually("the empty pack is removed", removed).await;
    assert!(service.read(&uid).await == bytes);
    service.assert_consistent().await;
}

/// Content that is refused after it was written counts as dead space.
#[tokio::test]
async fn content_beyond_the_quota_is_refused_before_it_is_written() {
    let service = Service::start_with(&[PACKED]).await;
    let (code, text) = service.cli(&["tenant", "set", "default", "--max-bytes", "20000"]).await;
    assert_eq!(code, 0, "{text}");
    let link = service.upload_link("x.bin").await;
    for _ in 0..3 {
        let chunks = (0..5).map(|seed| Ok::<_, std::io::Error>(content(seed, 10_000)));
        let body = reqwest::Body::wrap_stream(stream::iter(chunks));
        let answer = service.client().put(service.url(&link.url.single)).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 507);
    }
    // A new file is charged for its row too.
    let used: usize = service.sql("SELECT used FROM tenants").await[0].parse().unwrap();
    let body = content(9, 20_000 - used - 1);
    for chunked in [false, true] {
        let body = if chunked {
            reqwest::Body::wrap_stream(stream::iter([Ok::<_, std::io::Error>(body.clone())]))
        } else {
            body.clone().into()
        };
        let request = service.client().post(service.url("/api/v1/files?name=y.bin")).body(body);
        assert_eq!(request.send().await.unwrap().status(), 507);
    }
    assert!(packs(&service).is_empty());
}

#[tokio::test]
async fn packs_stay_readable_when_they_are_turned_off() {
    let mut service = Service::start_with(&[PACKED]).await;
    let bytes = content(1, 5000);
    let uid = service.store("x.bin", &bytes).await;
    service.set_setting("LOCAL__PACK_BELOW", "0");
    service.kill_and_restart().await;
    assert!(service.read(&uid).await == bytes);
    let other = service.store("y.bin", &content(2, 5000)).await;
    assert_eq!(service.objects().len(), 1);
    for uid in [uid, other] {
        delete(&service, &uid).await;
    }
    wait_until_idle(&service).await;
    assert_eq!(service.sql("SELECT count(*) FROM blobs").await, ["0"]);
}

#[tokio::test]
async fn a_damaged_record_is_found_and_replaced() {
    let service = Service::start_with(&[PACKED]).await;
    let bytes = content(1, 5000);
    let uid = service.store("x.bin", &bytes).await;
    let pack = packs(&service).remove(0);
    let mut damaged = std::fs::read(&pack).unwrap();
    damaged[100] ^= 1;
    std::fs::write(&pack, damaged).unwrap();
    let (status, text) = service.cli(&["scrub"]).await;
    assert_ne!(status, 0, "{text}");
    // Without its header, the record is lost. The same content replaces it.
    let mut lost = std::fs::read(&pack).unwrap();
    lost[0] ^= 1;
    std::fs::write(&pack, lost).unwrap();
    let again = service.store("y.bin", &bytes).await;
    for uid in [uid, again] {
        assert!(service.read(&uid).await == bytes);
    }
    wait_until_idle(&service).await;
}
