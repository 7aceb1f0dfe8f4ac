use std::{io::Write, path::Path};

use reqwest::Method;
use serde_json::json;

use crate::support::{Service, content, eventually, problem, refused};

#[tokio::test]
async fn a_full_disk_refuses_uploads_and_what_is_answered_afterwards_is_kept() {
    let mut service = Service::start().await;
    let before = content(1, 200_000);
    let kept = service.store("before.bin", &before).await;
    let link = service.upload_link("x.bin").await;

    // The write-ahead log of the database cannot grow any more, nor can any object.
    service.limit_files(Some(16_384));
    let message = refused(service.put(&link.url.single, &content(2, 300_000)).await, 503).await;
    assert!(message.contains("try again later"), "{message}");
    let body = json!({"filePath": ["a"], "expire": 600});
    for _ in 0..20 {
        let answer = service.post("/link/upload", &body).await;
        assert_eq!(answer.headers()["retry-after"], "1");
        refused(answer, 503).await;
    }
    assert!(service.read(&kept).await == before, "reads go on");

    service.limit_files(None);
    let mut stored = vec![(kept, before)];
    // One that is beaten is undone: that must not open a transaction which never ends either.
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
        Service::start_with(&[("TASKS__POLL_INTERVAL", "1"), ("TASKS__FIRST_RETRY", "1")]).await;
    let bytes = content(9, 8_000_000);
    let link = service.upload_link("x.bin").await;
    let parts: Vec<_> = bytes.chunks(2_000_000).collect();
    service.put_parts(&link, &parts[..3]).await;
    service.limit_files(Some(1_000_000));
    refused(service.put_part(&link, 4, parts[3]).await, 507).await;
    refused(service.put_part(&link, 1, parts[3]).await, 507).await;
    // There is room for a part again, but not for all of them in one object.
    service.limit_files(Some(6_000_000));
    assert_eq!(service.checkpoint(&link.uid).await, [1, 2, 3]);
    assert_eq!(service.put_part(&link, 4, parts[3]).await.status(), 200);
    assert_eq!(service.merge(&link, 4, &bytes).await.status(), 200);
    eventually("the merge has failed", async || {
        (service.sql("SELECT count(*) FROM task_attempts WHERE outcome = 'failed'").await != ["0"])
            .then_some(())
    })
    .await;
    assert!(service.read(&link.uid).await == bytes);
    service.limit_files(None);
    service.wait_until_whole(&link.uid).await;
    assert!(service.read(&link.uid).await == bytes);
    eventually("nothing else is left", async || (service.objects().len() == 1).then_some(())).await;
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
    let settings =
        [("LOCAL__ROOT", "disk/objects"), ("LOCAL__KEEP_FREE", "0"), ("DATABASE__PATH", "disk/osproxy.db")];
    let service = Service::start_on_small_disk(96 << 20, &settings).await;
    let mut uids = Vec::new();
    for seed in 0..20 {
        uids.push(service.store("x.bin", &content(seed, 100_000)).await);
    }
    let disk = format!("/proc/{}/root{}/disk", service.pid().as_raw_pid(), service.folder().display());
    let filler = Path::new(&disk).join("filler");
    fill(&filler);
    // The database has some room left that it has used before. Then nothing new is taken any more.
    let create = async || service.v1_post("/uploads", &json!({"name": "y.bin"})).await;
    let mut created = 0;
    loop {
        let answer = create().await;
        if answer.status() != 201 {
            problem(answer, 507, "storage_full").await;
            break;
        }
        created += 1;
        assert!(created < 10_000, "the disk is not full");
    }
    let body = json!({"filePath": ["a"], "expire": 600});
    refused(service.post("/link/upload", &body).await, 507).await;
    let copy = service.v1_post(&format!("/files/{}/copy", uids[0]), &json!({})).await;
    problem(copy, 507, "storage_full").await;
    for (seed, uid) in (0..).zip(&uids) {
        assert!(service.read(uid).await == content(seed, 100_000), "reads go on");
        let file = format!("/files/{uid}");
        let renamed = service.v1(Method::PATCH, &file, Some(&json!({"name": "z.bin"}))).await;
        assert_eq!(renamed.status(), 200, "{}", renamed.text().await.unwrap());
        assert_eq!(service.v1(Method::DELETE, &file, None).await.status(), 204);
    }
    std::fs::remove_file(&filler).unwrap();
    eventually("there is room again", async || (create().await.status() == 201).then_some(())).await;
    assert_eq!(service.log().matches("the disk of the database is full; nothing new").count(), 1);
}
