use std::{io::Write, os::unix::fs::MetadataExt, path::Path};

use reqwest::Method;
use serde_json::json;

use crate::support::{Service, content, eventually, expect_problem, expect_v0_error, md5_hex};

#[tokio::test]
async fn a_full_disk_refuses_uploads_and_what_is_answered_afterwards_is_kept() {
    let mut service = Service::start().await;
    let before = content(1, 200_000);
    let kept = service.store("before.bin", &before).await;
    let link = service.upload_link("x.bin").await;

    // Neither the write-ahead log of the database nor any object can grow.
    service.limit_file_size(Some(16_384));
    let message = expect_v0_error(service.put(&link.url.single, &content(2, 300_000)).await, 503).await;
    assert!(message.contains("retry later"), "{message}");
    let body = json!({"filePath": ["a"], "expire": 600});
    for _ in 0..20 {
        let answer = service.post("/link/upload", &body).await;
        assert_eq!(answer.headers()["retry-after"], "1");
        expect_v0_error(answer, 503).await;
    }
    assert!(service.read(&kept).await == before, "reads go on");

    service.limit_file_size(None);
    let mut stored = vec![(kept, before)];
    // The loser of two concurrent uploads is rolled back: that must not leave a transaction open
    // either.
    let raced = service.upload_link("raced.bin").await;
    let (one, two) = (content(20, 100_000), content(21, 100_000));
    tokio::join!(service.put(&raced.url.single, &one), service.put(&raced.url.single, &two));
    for seed in 3..8 {
        let bytes = content(seed, 100_000);
        stored.push((service.store("after.bin", &bytes).await, bytes));
    }
    assert_eq!(service.put(&link.url.single, &content(2, 300_000)).await.status(), 200);
    service.kill().await;
    service.restart().await;
    for (uid, bytes) in stored {
        assert!(service.read(&uid).await == bytes, "{uid} was acknowledged");
    }
    assert!(service.read(&link.uid).await == content(2, 300_000));
}

#[tokio::test]
async fn a_full_disk_refuses_parts_and_keeps_what_it_cannot_merge_readable() {
    let mut service =
        Service::start_with(&[("TASKS__POLL_INTERVAL", "1"), ("TASKS__MIN_BACKOFF", "1")]).await;
    let bytes = content(9, 8_000_000);
    let link = service.upload_link("x.bin").await;
    // Parts of different sizes are objects.
    let cuts = [0, 1_900_000, 3_900_000, 5_900_000, 8_000_000];
    let parts: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
    service.put_parts(&link, &parts[..3]).await;
    service.limit_file_size(Some(1_500_000));
    expect_v0_error(service.put_part(&link, 4, parts[3]).await, 507).await;
    expect_v0_error(service.put_part(&link, 1, parts[3]).await, 507).await;
    // There is space for a part again, but not for all of them in one object.
    service.limit_file_size(Some(6_000_000));
    assert_eq!(service.checkpoint(&link.uid).await, [1, 2, 3]);
    assert_eq!(service.put_part(&link, 4, parts[3]).await.status(), 200);
    assert_eq!(service.merge(&link, 4, &bytes).await.status(), 200);
    eventually("the merge has failed", async || {
        (service.sql("SELECT count(*) FROM task_attempts WHERE outcome = 'failed'").await != ["0"])
            .then_some(())
    })
    .await;
    assert!(service.read(&link.uid).await == bytes);
    service.limit_file_size(None);
    service.wait_until_merged(&link.uid).await;
    assert!(service.read(&link.uid).await == bytes);
    eventually("only the content remains", async || (service.objects().len() == 1).then_some(())).await;
    service.assert_consistent().await;
}

/// Writes zeros to a file until its disk is full.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[tokio::test]
async fn on_a_disk_that_others_have_filled_files_can_still_be_removed_and_changed() {
    let settings = [
        ("LOCAL__ROOT", "disk/objects"),
        ("LOCAL__MIN_FREE_SPACE", "0"),
        ("DATABASE__PATH", "disk/osproxy.db"),
    ];
    let service = Service::start_on_small_disk(96 << 20, &settings).await;
    let mut uids = Vec::new();
    for seed in 0..20 {
        uids.push(service.store("x.bin", &content(seed, 100_000)).await);
    }
    let disk = format!("/proc/{}/root{}/disk", service.pid().as_raw_pid(), service.folder().display());
    let filler = Path::new(&disk).join("filler");
    fill(&filler);
    // The database first uses its own free pages. Once they are used up, new uploads are refused.
    let create = async || service.v1_post("/uploads", &json!({"name": "y.bin"})).await;
    let mut created = 0;
    loop {
        let answer = create().await;
        if answer.status() != 201 {
            expect_problem(answer, 507, "storage_full").await;
            break;
        }
        created += 1;
        assert!(created < 10_000, "the disk is not full");
    }
    let body = json!({"filePath": ["a"], "expire": 600});
    expect_v0_error(service.post("/link/upload", &body).await, 507).await;
    let copy = service.v1_post(&format!("/files/{}/copy", uids[0]), &json!({})).await;
    expect_problem(copy, 507, "storage_full").await;
    for (seed, uid) in (0..).zip(&uids) {
        assert!(service.read(uid).await == content(seed, 100_000), "reads go on");
        let file = format!("/files/{uid}");
        let renamed = service.v1(Method::PATCH, &file, Some(&json!({"name": "z.bin"}))).await;
        assert_eq!(renamed.status(), 200, "{}", renamed.text().await.unwrap());
        assert_eq!(service.v1(Method::DELETE, &file, None).await.status(), 204);
    }
    std::fs::remove_file(&filler).unwrap();
    eventually("there is space again", async || (create().await.status() == 201).then_some(())).await;
    assert_eq!(service.log().matches("the disk of the database is full; uploads are rejected").count(), 1);
}

/// More than any disk has.
const ALL: &str = "1152921504606846976";

#[tokio::test]
async fn nothing_is_begun_on_a_disk_that_has_no_more_than_is_kept_free() {
    let mut service = Service::start().await;
    let bytes = content(1, 1000);
    let (uid, md5) = (service.store("x.bin", &bytes).await, md5_hex(&bytes));
    let link = service.upload_link("y.bin").await;
    let announced = service.create_upload(&json!({"name": "y.bin", "size": 1000})).await;
    service.set_setting("LOCAL__MIN_FREE_SPACE", ALL);
    service.kill_and_restart().await;
    let full = async |answer| {
        expect_problem(answer, 507, "storage_full").await;
    };
    full(service.v1_post("/uploads", &json!({"name": "x"})).await).await;
    full(service.v1_post("/uploads", &json!({"name": "x", "size": 1})).await).await;
    full(service.v1_post(&format!("/files/{uid}/copy"), &json!({})).await).await;
    full(service.v1_put_part(&announced, 1, &bytes).await).await;
    full(service.put(&announced.links.as_ref().unwrap().content, &bytes).await).await;
    expect_v0_error(service.post("/link/upload", &json!({"filePath": ["a"], "expire": 600})).await, 507)
        .await;
    let resume = json!({"data": [{"md5": md5, "path": "z.bin"}]});
    expect_v0_error(service.post("/resume", &resume).await, 507).await;
    expect_v0_error(service.put(&link.url.single, &bytes).await, 507).await;
    expect_v0_error(service.put_part(&link, 1, &bytes).await, 507).await;
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["3"], "a refused request left a file");
    // Reading and deleting still work.
    assert!(service.read(&uid).await == bytes);
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
    assert_eq!(service.v1_abort(&announced).await.status(), 204);
}

#[tokio::test]
async fn nothing_is_begun_while_the_disk_of_the_database_has_no_more_than_is_kept_free() {
    // Objects lie on another disk, which has free space.
    let settings = [("DATABASE__PATH", "disk/osproxy.db"), ("LOCAL__MIN_FREE_SPACE", "134217728")];
    let service = Service::start_on_small_disk(64 << 20, &settings).await;
    expect_problem(service.v1_post("/uploads", &json!({"name": "x"})).await, 507, "storage_full").await;
    expect_v0_error(service.post("/link/upload", &json!({"filePath": ["a"], "expire": 600})).await, 507)
        .await;
}

/// The disk space of the hidden files in a folder and its subfolders, in bytes.
fn reserved(folder: &Path) -> u64 {
    // A file may be removed while it is examined.
    let entries = std::fs::read_dir(folder).unwrap().filter_map(Result::ok);
    let of_entry = |entry: std::fs::DirEntry| {
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => reserved(&entry.path()),
            Ok(metadata) if is_hidden => metadata.blocks() * 512,
            _ => 0,
        }
    };
    entries.map(of_entry).sum()
}

#[tokio::test]
async fn room_is_reserved_for_a_share_of_the_disk_and_for_some_time() {
    const SIZE: usize = 4 << 20;
    let mut service = Service::start().await;
    let wish = json!({"name": "x.bin", "size": SIZE, "part_size": SIZE / 4});
    let upload = service.create_upload(&wish).await;
    let folder = service.objects_folder();
    assert!(reserved(&folder) >= SIZE as u64, "no space is reserved for the announced size");
    // An expired reservation is released, and the first part reserves again.
    service.set_setting("LOCAL__RESERVATION_TIMEOUT", "0");
    service.kill_and_restart().await;
    eventually("the reservation is released", async || (reserved(&folder) == 0).then_some(())).await;
    let bytes = content(1, SIZE);
    for (number, part) in (1..).zip(bytes.chunks(SIZE / 4)) {
        assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
        assert!(number == 4 || reserved(&folder) >= SIZE as u64);
    }
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    assert!(service.read(&upload.uid).await == bytes);
    // A tenant beyond its share gets no reservation, but can upload all the same.
    service.set_setting("LOCAL__MAX_RESERVED_TENANT_PERCENT", "0");
    service.kill_and_restart().await;
    let upload = service.create_upload(&wish).await;
    assert!(reserved(&folder) < SIZE as u64 / 4, "space is reserved beyond the share");
    let bytes = content(2, SIZE);
    for (number, part) in (1..).zip(bytes.chunks(SIZE / 4)) {
        assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
    }
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    assert!(service.read(&upload.uid).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}
