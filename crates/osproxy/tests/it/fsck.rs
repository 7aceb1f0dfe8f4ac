use crate::support::{Service, content};

/// A stopped service with one whole file and one upload in parts, and no inconsistency.
async fn stopped_service() -> (Service, String, String) {
    let mut service = Service::start().await;
    let whole = service.store("x.bin", &content(1, 100_000)).await;
    let link = service.upload_link("y.bin").await;
    service.put_parts(&link, &[b"one", b"two"]).await;
    service.assert_consistent().await;
    (service, whole, link.uid)
}

async fn fsck(service: &Service, options: &[&str]) -> (i32, String) {
    service.cli(&[&["fsck"], options].concat()).await
}

#[tokio::test]
async fn it_needs_the_data_for_itself() {
    let service = Service::start().await;
    let (code, said) = fsck(&service, &[]).await;
    assert_eq!(code, 1);
    assert!(said.contains("another osproxy process uses"), "{said}");
    assert!(said.contains("stop the service first"), "{said}");
    // A database server is found wherever the data folder is.
    if service.database().url().is_none() {
        let (code, said) = fsck(&service, &["--data-dir", "elsewhere"]).await;
        assert_eq!(code, 1);
        assert!(said.contains("--data-dir"), "{said}");
    }
}

#[tokio::test]
async fn what_is_missing_or_damaged_is_told_and_not_repaired() {
    let (service, whole, parts) = stopped_service().await;
    let key = |name: &str| Service::object_key(name);
    let object = service.object_path(format!("unknown/{whole}.bin"));
    let mut bytes = content(1, 100_000);
    // A flipped bit: only `--deep` finds it.
    bytes[77_777] ^= 1;
    std::fs::write(&object, &bytes).unwrap();
    std::fs::write(service.object_path(format!("unknown/{parts}_2")), "TWO").unwrap();
    assert_eq!(fsck(&service, &[]).await.0, 0);
    let (code, said) = fsck(&service, &["--deep", "--repair"]).await;
    assert_eq!(code, 4);
    assert!(
        said.contains(&format!(
            "blob {whole} ({}) has different content than recorded",
            key(&format!("unknown/{whole}.bin"))
        )),
        "{said}"
    );
    let part = key(&format!("unknown/{parts}_2"));
    assert!(said.contains(&format!("part 2 of blob {parts} ({part}) has different content")), "{said}");
    std::fs::write(&object, &bytes[1..]).unwrap();
    let (code, said) = fsck(&service, &[]).await;
    assert_eq!(code, 4);
    assert!(said.contains("has 99999 bytes instead of 100000"), "{said}");
    std::fs::remove_file(&object).unwrap();
    std::fs::remove_file(service.object_path(format!("unknown/{parts}_1"))).unwrap();
    let (code, said) = fsck(&service, &["--repair"]).await;
    assert_eq!((code, said.matches("has no object").count()), (4, 2), "{said}");
    assert!(said.ends_with("2 blobs, 1 objects, 3 bytes: 2 differences, 0 repaired\n"), "{said}");
}

#[tokio::test]
async fn counts_and_leftovers_are_repaired() {
    let (service, whole, _) = stopped_service().await;
    service.sql(&format!("UPDATE blobs SET refs = 7 WHERE id = {whole}")).await;
    let blob = "INSERT INTO blobs (id, tenant, state, layout, backend, object_key, refs, size, created_at)";
    for (id, state, layout) in [
        (1, "writing", "whole"),
        (2, "deleting", "whole"),
        (3, "receiving", "parts"),
        (4, "deleting", "parts"),
        (5, "stored", "whole"),
    ] {
        let values =
            format!("({id}, 'default', '{state}', '{layout}', 'local', 'unknown/{id}.bin', 0, 5, 0)");
        service.sql(&format!("{blob} VALUES {values}")).await;
        if layout == "whole" {
            std::fs::write(service.object_path(format!("unknown/{id}.bin")), "stray").unwrap();
        }
    }
    let part = "INSERT INTO parts (id, blob_id, number, state, object_key, size, md5, created_at)";
    let kinds = [(11, "3", "stored"), (12, "4", "deleting"), (13, whole.as_str(), "stored")];
    for (id, blob, state) in kinds {
        service
            .sql(&format!("{part} VALUES ({id}, {blob}, 1, '{state}', 'unknown/{id}_1', 5, x'00', 0)"))
            .await;
        std::fs::write(service.object_path(format!("unknown/{id}_1")), "stray").unwrap();
    }
    let (code, said) = fsck(&service, &[]).await;
    assert_eq!(code, 4);
    assert!(said.contains(&format!("blob {whole} counts 7 files but has 1")), "{said}");
    assert!(said.contains("7 differences, 0 repaired"), "{said}");
    let (code, said) = fsck(&service, &["--repair"]).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("7 differences, 7 repaired"), "{said}");
    assert_eq!(fsck(&service, &["--deep"]).await.0, 0);
    assert_eq!(service.objects().len(), 3);
}

#[tokio::test]
async fn keys_and_files_refer_to_each_other() {
    let (service, whole, parts) = stopped_service().await;
    service
        .sql("INSERT INTO buckets (id, name, tenant, created_at, is_public) VALUES (1, 'photos', 'default', 0, 0)")
        .await;
    let object = "INSERT INTO objects (bucket_id, object_key, uid, size, etag, modified_at, owns_file)";
    // An object with a file, one without, one whose upload is not complete, and one without a bucket.
    for (bucket, key, uid) in [(1, "61", whole.as_str()), (1, "62", "2"), (1, "63", &parts), (9, "64", "4")] {
        let key = service.database().bytes_literal(key);
        service.sql(&format!("{object} VALUES ({bucket}, {key}, {uid}, 5, 'etag', 0, 1)")).await;
    }
    let upload = "INSERT INTO object_uploads (uid, bucket_id, object_key, is_multipart, task_id, created_at)";
    let key = service.database().bytes_literal("65");
    service.sql(&format!("{upload} VALUES (5, 1, {key}, 1, 6, 0)")).await;
    service.sql(&format!("UPDATE files SET bucket_id = 1 WHERE uid = {parts}")).await;
    let (code, said) = fsck(&service, &[]).await;
    assert_eq!((code, said.contains("5 differences, 0 repaired")), (4, true), "{said}");
    for difference in [
        format!("object \"a\" is in another bucket than its file ({whole})"),
        "object \"b\" has no file (2)".to_owned(),
        format!("object \"c\" has no readable file ({parts})"),
        "object \"d\" has no file (4)".to_owned(),
        "the upload of object \"e\" has no open file (5)".to_owned(),
    ] {
        assert!(said.contains(&difference), "{difference}: {said}");
    }
    let (code, said) = fsck(&service, &["--repair"]).await;
    assert_eq!(code, 3, "{said}");
    // Without its object, the file names a bucket in vain.
    assert!(said.contains("6 differences, 6 repaired"), "{said}");
    assert_eq!(fsck(&service, &["--deep"]).await.0, 0);
    assert_eq!(service.sql("SELECT uid FROM objects").await, [whole.as_str()]);
    assert_eq!(service.sql(&format!("SELECT bucket_id FROM files WHERE uid = {whole}")).await, ["1"]);
}

#[tokio::test]
async fn complete_parts_that_nobody_merges_get_a_task() {
    let mut service = Service::start().await;
    service.database().hold_merges().await;
    let bytes = content(2, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 30_000).await;
    service.assert_consistent().await;
    service.sql("DELETE FROM tasks WHERE kind = 'merge_parts'").await;
    service.database().release_merges().await;
    let (code, said) = fsck(&service, &["--repair"]).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("no task merges them: repaired"), "{said}");
    service.restart().await;
    service.wait_until_merged(&uid).await;
    assert!(service.read(&uid).await == bytes);
    service.assert_consistent().await;
}

#[tokio::test]
async fn strays_are_told_and_deleted_only_when_that_is_asked_for() {
    let (service, ..) = stopped_service().await;
    for name in ["image/1.png", "unknown/not one of ours"] {
        std::fs::write(service.object_path(name), "stray").unwrap();
    }
    let (code, said) = fsck(&service, &["--repair"]).await;
    assert_eq!(code, 4);
    assert!(said.contains("object image/1.png (5 bytes) is an orphan: no row names it\n"), "{said}");
    let (code, said) = fsck(&service, &["--delete-orphans"]).await;
    // Files that osproxy cannot have written are not deleted.
    assert_eq!(code, 4);
    assert!(said.contains("2 differences, 1 repaired"), "{said}");
    assert!(!service.object_path("image/1.png").exists());
    assert!(service.object_path("unknown/not one of ours").exists());
}

#[tokio::test]
async fn parts_are_kept_when_they_may_be_all_there_is() {
    let mut service = Service::start().await;
    let bytes = content(3, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 40_000).await;
    service.wait_until_merged(&uid).await;
    service.assert_consistent().await;
    let object = service.object_path(format!("unknown/{uid}.bin"));
    let part = service.object_path(format!("unknown/{uid}_1"));
    let row = "INSERT INTO parts (id, blob_id, number, state, object_key, size, md5, created_at)";
    service.sql(&format!("{row} VALUES (1, {uid}, 1, 'stored', 'unknown/{uid}_1', 100000, x'00', 0)")).await;
    std::fs::write(&part, &bytes).unwrap();
    let mut damaged = bytes.clone();
    damaged[50_000] ^= 1;
    for found in [None, Some(&bytes[1..]), Some(&damaged)] {
        let _ = std::fs::remove_file(&object);
        if let Some(found) = found {
            std::fs::write(&object, found).unwrap();
        }
        let (code, said) = fsck(&service, &["--repair"]).await;
        assert_eq!(code, 4, "{said}");
        assert!(part.exists(), "{said}");
    }
    std::fs::write(&object, &bytes).unwrap();
    assert_eq!(fsck(&service, &["--repair"]).await.0, 3);
    assert!(!part.exists());
    assert_eq!(fsck(&service, &["--deep"]).await.0, 0);
}

#[tokio::test]
async fn what_other_rows_say_is_content_is_not_removed() {
    let (service, whole, _) = stopped_service().await;
    let key = Service::object_key(&format!("unknown/{whole}.bin"));
    let blob = "INSERT INTO blobs (id, tenant, state, layout, backend, object_key, refs, size, created_at)";
    for (id, state) in [(1, "writing"), (2, "deleting"), (3, "stored")] {
        service
            .sql(&format!(
                "{blob} VALUES ({id}, 'default', '{state}', 'whole', 'local', '{key}', 0, 100000, 0)"
            ))
            .await;
    }
    let (code, said) = fsck(&service, &["--repair"]).await;
    assert_eq!(code, 4, "{said}");
    assert!(said.contains(&format!("object {key} is named by more than one row")), "{said}");
    assert!(
        said.contains("blob 1 is an unfinished write, and its object is content of another row"),
        "{said}"
    );
    assert!(service.object_path(format!("unknown/{whole}.bin")).exists(), "{said}");
}

#[tokio::test]
async fn files_without_content_are_told_and_then_nothing_is_removed() {
    let (service, whole, _) = stopped_service().await;
    for damage in ["blob_id = NULL", "blob_id = 1"] {
        service.database().unchecked_sql(&format!("UPDATE files SET {damage} WHERE uid = {whole}")).await;
        let (code, said) = fsck(&service, &["--repair"]).await;
        assert_eq!(code, 4, "{said}");
        assert!(said.contains(&format!("file {whole} is complete but has no content")), "{said}");
        assert!(service.objects().contains(&format!("unknown/{whole}.bin")), "{said}");
    }
}

#[tokio::test]
async fn parts_that_do_not_make_up_the_file_are_told() {
    let mut service = Service::start().await;
    service.database().hold_merges().await;
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[b"abc", b"de", b""]).await;
    assert_eq!(service.merge(&link, 3, b"abcde").await.status(), 200);
    service.assert_consistent().await;
    let object = |number| service.object_path(format!("unknown/{}_{number}", link.uid));
    // The last part, although it is empty.
    service.sql("DELETE FROM parts WHERE number = 3").await;
    std::fs::remove_file(object(3)).unwrap();
    let (code, said) = fsck(&service, &[]).await;
    assert_eq!(code, 4);
    assert!(said.contains("is missing parts"), "{said}");
    // Its size on disk matches the row, but not the original part.
    service.sql("UPDATE parts SET size = 1 WHERE number = 2").await;
    std::fs::write(object(2), "d").unwrap();
    let (_, said) = fsck(&service, &[]).await;
    assert!(said.contains("has 5 bytes, but its parts have 4"), "{said}");
    service.sql("DELETE FROM parts WHERE number = 1").await;
    let (_, said) = fsck(&service, &[]).await;
    assert!(said.contains("has no part 1"), "{said}");
}

const BLOB: &str =
    "INSERT INTO blobs (id, tenant, state, layout, backend, object_key, refs, size, created_at)";
const PART: &str = "INSERT INTO parts (id, blob_id, number, state, object_key, size, md5, created_at)";

#[tokio::test]
async fn parts_that_name_the_content_of_others_do_not_make_it_go() {
    let (service, whole, upload) = stopped_service().await;
    let key = Service::object_key(&format!("unknown/{whole}.bin"));
    service.sql(&format!("{BLOB} VALUES (4, 'default', 'deleting', 'parts', 'local', '', 0, 5, 0)")).await;
    for (id, blob) in [(1, whole.as_str()), (2, upload.as_str()), (3, "4")] {
        service.sql(&format!("{PART} VALUES ({id}, {blob}, 9, 'deleting', '{key}', 5, x'00', 0)")).await;
    }
    let (code, said) = fsck(&service, &["--repair"]).await;
    assert_eq!(code, 4, "{said}");
    assert!(service.object_path(format!("unknown/{whole}.bin")).exists(), "{said}");
}

#[tokio::test]
async fn a_blob_that_goes_takes_along_what_a_crash_left_of_its_parts() {
    let (service, whole, _) = stopped_service().await;
    let part = format!("unknown/{whole}_1");
    service.sql(&format!("{PART} VALUES (1, {whole}, 1, 'stored', '{part}', 5, x'00', 0)")).await;
    std::fs::write(service.object_path(part), "stray").unwrap();
    service.sql(&format!("UPDATE files SET state = 'deleted', blob_id = NULL WHERE uid = {whole}")).await;
    service
        .sql(&format!("UPDATE blobs SET state = 'deleting', md5 = NULL, blake3 = NULL WHERE id = {whole}"))
        .await;
    assert_eq!(fsck(&service, &["--repair"]).await.0, 3);
    assert_eq!(service.objects().len(), 2, "the unfinished upload was removed");
    assert_eq!(fsck(&service, &["--deep"]).await.0, 0);
}

#[tokio::test]
async fn what_may_be_the_lost_bytes_of_a_file_is_not_removed() {
    // A restored database, in which an upload is not finished.
    let (service, whole, _) = stopped_service().await;
    service.database().unchecked_sql(&format!("UPDATE blobs SET state = 'writing' WHERE id = {whole}")).await;
    assert_eq!(fsck(&service, &["--repair"]).await.0, 4);
    assert!(service.objects().contains(&format!("unknown/{whole}.bin")));
    // A file whose object is missing, and an object without a file.
    let (service, whole, _) = stopped_service().await;
    let object = |name: &str| service.object_path(name);
    std::fs::rename(object(&format!("unknown/{whole}.bin")), object("unknown/5.bin")).unwrap();
    let values = "(5, 'default', 'stored', 'whole', 'local', 'unknown/5.bin', 0, 100000, 0)";
    service.sql(&format!("{BLOB} VALUES {values}")).await;
    assert_eq!(fsck(&service, &["--repair"]).await.0, 4);
    assert!(service.objects().contains(&"unknown/5.bin".to_owned()));
}
