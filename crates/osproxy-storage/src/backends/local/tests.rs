//! Tests of the local backend as a whole.

use super::*;
use bytes::Bytes;
use futures_util::TryStreamExt;

fn files(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "a test may block")]
    for folder in std::fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        if folder.ends_with(ID_FILE) {
            continue;
        }
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            files.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
    files.retain(|file| file != ".tmp/lock");
    files
}

#[tokio::test]
async fn conforms() {
    for fsync in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let store = Local::open(root.path(), fsync).await.unwrap();
        crate::conformance::run(&store).await;
        assert_eq!(files(root.path()), [""; 0], "the conformance suite left files");
    }
}

#[tokio::test]
async fn unpublished_objects_are_removed_after_a_crash() {
    let root = tempfile::tempdir().unwrap();
    let key = Key::parse("unknown/1.bin").unwrap();
    let store = Local::open(root.path(), true).await.unwrap();
    let mut writer = store.create(&key, SizeHint::Unknown).await.unwrap();
    writer.write(Bytes::from_static(b"half")).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(files(root.path()), [".tmp/1.bin.0"]);

    // A crash runs no destructors, but the kernel releases the lock.
    std::mem::forget(writer);
    rustix::fs::flock(store.root.lock.as_ref().unwrap(), FlockOperation::Unlock).unwrap();

    Local::open(root.path(), true).await.unwrap();
    assert_eq!(files(root.path()), [""; 0]);
}

#[tokio::test]
async fn a_moved_root_keeps_its_store_id() {
    let folder = tempfile::tempdir().unwrap();
    let (here, other) = (folder.path().join("here"), folder.path().join("there"));
    let id = Local::open(&here, true).await.unwrap().id().to_owned();
    assert_eq!(id.len(), 8);
    assert_ne!(Local::open(&other, true).await.unwrap().id(), id);
    #[expect(clippy::disallowed_methods, reason = "a test may block")]
    let (moved, damaged) = (folder.path().join("moved"), |root: &Path| {
        std::fs::write(root.join(ID_FILE), "damaged").unwrap();
    });
    #[expect(clippy::disallowed_methods, reason = "a test may block")]
    std::fs::rename(&here, &moved).unwrap();
    assert_eq!(Local::open(&moved, true).await.unwrap().id(), id);
    // A store with a damaged id must not open: with a new id, all recorded objects would belong to
    // an unknown store.
    damaged(&moved);
    assert!(Local::open(&moved, true).await.is_err());
}

#[tokio::test]
async fn a_probe_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/root");
    let probed = Local::probe(&root).await.unwrap();
    assert!(!probed.exists && probed.free > 0);
    assert_eq!(files(folder.path()), [""; 0]);

    #[expect(clippy::disallowed_methods, reason = "a test may block")]
    std::fs::create_dir_all(&root).unwrap();
    assert!(Local::probe(&root).await.unwrap().exists);
    assert_eq!(files(&root), [""; 0]);

    let _owner = Local::open(&root, true).await.unwrap();
    assert!(Local::probe(&root).await.unwrap().exists);
    assert_eq!(files(&root), [""; 0]);

    // A file has the name of a category folder, so nothing can be moved into the folder.
    #[expect(clippy::disallowed_methods, reason = "a test may block")]
    std::fs::write(root.join("video"), "no folder").unwrap();
    let error = Local::probe(&root).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("video"), "{error:?}");
    #[expect(clippy::disallowed_methods, reason = "a test may block")]
    std::fs::remove_file(root.join("video")).unwrap();
    assert_eq!(files(&root), [""; 0]);
}

#[tokio::test]
async fn a_root_is_opened_by_one_process_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let _owner = Local::open(root.path(), true).await.unwrap();
    assert!(Local::open(root.path(), true).await.is_err());
}

#[tokio::test]
async fn a_store_opened_to_read_needs_no_lock_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    assert!(Local::open_to_read(root.path()).await.is_err(), "the root is not a store yet");
    assert_eq!(files(root.path()), [""; 0]);
    let owner = Local::open(root.path(), true).await.unwrap();
    let key = Key::parse("unknown/1.bin").unwrap();
    let mut writer = owner.create(&key, SizeHint::Unknown).await.unwrap();
    writer.write(Bytes::from_static(b"whole")).await.unwrap();
    writer.finish().await.unwrap();
    writer.publish().await.unwrap();
    let mut half = owner.create(&key, SizeHint::Unknown).await.unwrap();
    half.write(Bytes::from_static(b"half")).await.unwrap();
    half.finish().await.unwrap();
    let before = files(root.path());

    let reader = Local::open_to_read(root.path()).await.unwrap();
    assert_eq!((reader.id(), reader.size(&key).await.unwrap()), (owner.id(), 5));
    let bytes: Vec<_> = reader.open(&key, 1..5).await.unwrap().try_collect().await.unwrap();
    assert_eq!(bytes.concat(), b"hole");
    assert!(reader.create(&key, SizeHint::Unknown).await.is_err());
    assert!(reader.delete(std::slice::from_ref(&key)).await.is_err());
    let parts = reader.multipart().unwrap();
    assert!(parts.begin(&key, Some(crate::PartLayout { size: 5, part_size: 1024 })).await.is_err());
    assert!(parts.create_part(&key, "1024", 1, 5).await.is_err());
    assert!(parts.complete(&key, "1024", &[], 1024).await.is_err());
    assert!(parts.abort(&key, "1024").await.is_err());
    assert_eq!(files(root.path()), before, "the unfinished object must still be there");
}

#[tokio::test]
async fn a_truncated_file_is_an_error_and_not_a_short_read() {
    let root = tempfile::tempdir().unwrap();
    let store = Local::open(root.path(), false).await.unwrap();
    let key = Key::parse("unknown/1.bin").unwrap();
    let mut writer = store.create(&key, SizeHint::Unknown).await.unwrap();
    writer.write(Bytes::from(vec![1; 300_000])).await.unwrap();
    writer.finish().await.unwrap();
    writer.publish().await.unwrap();

    let mut reader = store.open(&key, 0..300_000).await.unwrap();
    let path = root.path().join(key.as_str());
    let file = rustix::fs::open(&path, OFlags::WRONLY, Mode::empty()).unwrap();
    rustix::fs::ftruncate(&file, 100_000).unwrap();

    let mut seen = 0;
    let error = loop {
        match futures_util::StreamExt::next(&mut reader).await.unwrap() {
            Ok(bytes) => seen += bytes.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(seen, 100_000);
    assert_eq!(error.kind, ErrorKind::Truncated);
    let reopened = store.open(&key, 0..300_000).await;
    assert_eq!(reopened.err().unwrap().kind, ErrorKind::Truncated);
}
