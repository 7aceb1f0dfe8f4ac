use crate::support::{Service, content, eventually};

#[tokio::test]
async fn a_kill_right_after_the_answer_loses_nothing() {
    let mut service = Service::start().await;
    let mut stored = Vec::new();
    for round in 0..10 {
        let bytes = content(round, 100_000);
        let uid = service.store("x.bin", &bytes).await;
        service.kill().await;
        service.restart().await;
        stored.push((uid, bytes));
        for (uid, bytes) in &stored {
            assert!(service.read(uid).await == *bytes);
        }
    }
}

#[tokio::test]
async fn an_upload_killed_at_any_byte_leaves_no_file_and_no_object() {
    let mut service = Service::start().await;
    let bytes = content(1, 1_000_000);
    for cut in [0, 1, 262_144, 300_000, 999_999] {
        let link = service.upload_link("x.bin").await;
        let mut connection = service.connect().await;
        connection.send_head("PUT", &link.url.single, "Content-Length: 1000000\r\n").await;
        connection.send(&bytes[..cut]).await;
        eventually("the write is recorded", async || {
            (service.sql("SELECT count(*) FROM blobs").await == ["1"]).then_some(())
        })
        .await;
        if cut >= 262_144 {
            eventually("bytes are on the disk", async || (!service.objects().is_empty()).then_some(())).await;
        }
        service.kill().await;
        service.restart().await;
        assert_swept(&service, 0).await;
        assert!(service.download_link(&link.uid).await.is_none());
    }
}

#[tokio::test]
async fn what_a_crash_between_object_and_row_leaves_is_swept() {
    let mut service = Service::start().await;
    let stored = service.store("kept.bin", b"kept").await;
    let [published, condemned, never_written] = ["1", "2", "3"];
    service.kill().await;
    for (id, state) in [(published, "writing"), (condemned, "deleting"), (never_written, "writing")] {
        let columns = "(id, tenant, state, backend, object_key, refs, size, created_at)";
        let values = format!("({id}, 'default', '{state}', 'local', 'unknown/{id}.bin', 0, 0, 0)");
        service.sql(&format!("INSERT INTO blobs {columns} VALUES {values}")).await;
    }
    for id in [published, condemned] {
        std::fs::write(service.object_path(format!("unknown/{id}.bin")), "stray").unwrap();
    }
    service.restart().await;
    assert_swept(&service, 1).await;
    assert_eq!(service.read(&stored).await, b"kept");
}

#[tokio::test]
async fn one_object_that_cannot_be_removed_does_not_keep_the_others() {
    let mut service = Service::start().await;
    service.kill().await;
    for id in ["1", "2", "3"] {
        let columns = "(id, tenant, state, backend, object_key, refs, size, created_at)";
        let key = if id == "2" { "no key at all".to_owned() } else { format!("unknown/{id}.bin") };
        let values = format!("({id}, 'default', 'writing', 'local', '{key}', 0, 0, 0)");
        service.sql(&format!("INSERT INTO blobs {columns} VALUES {values}")).await;
    }
    // A folder cannot be removed like a file.
    std::fs::create_dir(service.object_path("unknown/1.bin")).unwrap();
    std::fs::write(service.object_path("unknown/3.bin"), "stray").unwrap();
    service.restart().await;
    eventually("the third object is swept", async || {
        (service.sql("SELECT id FROM blobs ORDER BY id").await == ["1", "2"]).then_some(())
    })
    .await;
    assert!(!service.object_path("unknown/3.bin").exists());
}

/// Waits until every object in the store is stored content, and no other blob is recorded.
async fn assert_swept(service: &Service, objects: usize) {
    eventually("all orphans are swept", async || {
        let unfinished = service.sql("SELECT id FROM blobs WHERE state <> 'stored'").await;
        (unfinished.is_empty() && service.objects().len() == objects).then_some(())
    })
    .await;
}
