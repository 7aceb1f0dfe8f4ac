use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

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
        connection.head("PUT", &link.url.single, "Content-Length: 1000000\r\n").await;
        connection.send(&bytes[..cut]).await;
        eventually("the attempt is recorded", async || {
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
        std::fs::write(service.objects_folder().join(format!("unknown/{id}.bin")), "stray").unwrap();
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
    // A folder is not removed like a file.
    std::fs::create_dir(service.objects_folder().join("unknown/1.bin")).unwrap();
    std::fs::write(service.objects_folder().join("unknown/3.bin"), "stray").unwrap();
    service.restart().await;
    eventually("the third is swept", async || {
        (service.sql("SELECT id FROM blobs ORDER BY id").await == ["1", "2"]).then_some(())
    })
    .await;
    assert!(!service.objects_folder().join("unknown/3.bin").exists());
}

/// Waits until every object in the store is stored content, and nothing else is recorded.
async fn assert_swept(service: &Service, objects: usize) {
    eventually("all is swept", async || {
        let unfinished = service.sql("SELECT id FROM blobs WHERE state <> 'stored'").await;
        (unfinished.is_empty() && service.objects().len() == objects).then_some(())
    })
    .await;
}

/// Uploads and kills at moments that depend on the seed: whatever was answered is there afterwards, byte for byte,
/// and every object that is there belongs to stored content.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_nothing_and_leave_nothing() {
    let mut service = Arc::new(Service::start().await);
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    for seed in 1..=10_u64 {
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..4 {
            let (service, acknowledged) = (service.clone(), acknowledged.clone());
            clients.spawn(async move {
                for upload in 0.. {
                    let number = (seed * 4 + client) * 1_000 + upload;
                    // Some are the same for all clients, so that blobs are shared and races happen.
                    let number = if upload % 3 == 0 { seed * 1_000 + upload } else { number };
                    let bytes = content(number, usize::try_from(number % 7 * 60_000).unwrap());
                    let Some(uid) = try_store(&service, &bytes).await else {
                        return;
                    };
                    acknowledged.lock().await.push((uid, bytes));
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(20 + seed * 7919 % 150)).await;
        service.signal(rustix::process::Signal::KILL);
        clients.join_all().await;
        let mut stopped = Arc::into_inner(service).unwrap();
        stopped.exit_status().await;
        stopped.restart().await;
        let blobs = stopped.sql("SELECT count(*) FROM blobs WHERE state = 'stored'").await;
        assert_swept(&stopped, blobs[0].parse().unwrap()).await;
        println!("seed {seed}: {} files acknowledged so far", acknowledged.lock().await.len());
        service = Arc::new(stopped);
    }
    let acknowledged = acknowledged.lock().await;
    assert!(acknowledged.len() > 50, "only {} uploads were answered", acknowledged.len());
    for (uid, bytes) in &*acknowledged {
        assert!(service.read(uid).await == *bytes, "{uid} was acknowledged");
    }
    let wrong = "SELECT id FROM blobs WHERE refs <> (SELECT count(*) FROM files WHERE blob_id = blobs.id)";
    assert_eq!(service.sql(wrong).await, [""; 0]);
}

/// Stores content, and gives the uid if that was acknowledged.
async fn try_store(service: &Service, bytes: &[u8]) -> Option<String> {
    let url = service.url("/api/storage/v0/link/upload");
    let body = serde_json::json!({"filePath": ["x.bin"], "expire": 600});
    let answer = service.client().post(url).json(&body).send().await.ok()?;
    let answer: serde_json::Value = answer.json().await.ok()?;
    let link = &answer["data"][0];
    let url = service.url(link["url"]["single"].as_str()?);
    let put = service.client().put(url).header("content-length", bytes.len()).body(bytes.to_vec());
    let answer = put.send().await.ok()?;
    let status = answer.status();
    assert_eq!(status, 200, "{}", answer.text().await.unwrap_or_default());
    Some(link["uid"].as_str()?.to_owned())
}
