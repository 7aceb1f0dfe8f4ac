//! Tests of packs.
#![expect(clippy::disallowed_methods, reason = "a test may block")]

use std::{os::unix::fs::FileExt, path::PathBuf};

use futures_util::{TryStreamExt, future::try_join_all};

use super::*;
use crate::{PackRecord, PackedContent, PackedObject};

const MAX: u64 = 64 << 10;

async fn open(root: &Path) -> Local {
    let mut store = Local::open(root, true).await.unwrap();
    store.start_packs(MAX).unwrap();
    store
}

/// Opens a store again after it was dropped: its lock is released when its last thread ends.
async fn reopen(root: &Path) -> Local {
    loop {
        if let Ok(mut store) = Local::open(root, true).await {
            store.start_packs(MAX).unwrap();
            return store;
        }
        tokio::task::yield_now().await;
    }
}

fn content(blob_id: i64) -> Vec<u8> {
    let length = usize::try_from(blob_id * 977 % 5000).unwrap();
    blob_id.to_le_bytes().into_iter().cycle().take(length).collect()
}

async fn append(store: &Local, blob_id: i64) -> PackedObject {
    let bytes = content(blob_id);
    let blake3 = *blake3::hash(&bytes).as_bytes();
    store
        .packs()
        .unwrap()
        .append(PackedContent { blob_id, blake3, bytes: bytes.into(), is_copy: false })
        .await
        .unwrap()
}

async fn read(store: &Local, key: &Key, range: Range<u64>) -> Result<Vec<u8>> {
    let chunks: Vec<_> = store.open(key, range).await?.try_collect().await?;
    Ok(chunks.concat())
}

async fn records(store: &Local, pack: u32) -> Result<Vec<PackRecord>> {
    let (mut all, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let page = store.packs().unwrap().records(pack, at).await?;
        all.extend(page.records);
        from = page.next;
    }
    Ok(all)
}

fn pack_file(root: &Path, pack: u32) -> PathBuf {
    root.join(format!("packs/{pack:08x}"))
}

#[tokio::test]
async fn packed_objects_are_read_as_written() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let objects = try_join_all((1..=300).map(async |id| Ok::<_, Error>(append(&store, id).await))).await;
    let objects = objects.unwrap();
    for (id, object) in (1..).zip(&objects) {
        let (key, expected) = (&object.key, content(id));
        assert_eq!(Key::parse(key.as_str()).as_ref(), Ok(key));
        let size = expected.len() as u64;
        assert_eq!(store.size(key).await.unwrap(), size);
        assert_eq!(read(&store, key, 0..size).await.unwrap(), expected);
        let half = size / 2;
        assert_eq!(read(&store, key, half..size).await.unwrap(), expected[expected.len() / 2..]);
        assert_eq!(read(&store, key, 0..size + 1).await.unwrap_err().kind, ErrorKind::Truncated);
    }
    let listed: Vec<_> = store.list().await.unwrap().try_collect().await.unwrap();
    assert_eq!(listed, [], "packed objects are not listed");
}

#[tokio::test]
async fn a_key_that_is_not_of_a_record_reads_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let (object, _next) = (append(&store, 1).await, append(&store, 2).await);
    let location = object.key.pack_location().unwrap();
    for (location, blob_id) in [
        (location, 2),
        (crate::PackLocation { offset: location.offset + 64, ..location }, 1),
        (crate::PackLocation { offset: 0, ..location }, 1),
        (crate::PackLocation { length: location.length - 1, ..location }, 1),
        (crate::PackLocation { pack: 7, ..location }, 1),
    ] {
        let key = Key::packed(location, blob_id);
        assert_eq!(store.size(&key).await.unwrap_err().kind, ErrorKind::NotFound, "{key}");
        assert_eq!(read(&store, &key, 0..1).await.unwrap_err().kind, ErrorKind::NotFound, "{key}");
        store.delete(&[key]).await.unwrap();
    }
    assert_eq!(read(&store, &object.key, 0..977).await.unwrap(), content(1));
}

#[tokio::test]
async fn every_record_of_a_full_pack_is_found() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let mut keys = Vec::new();
    for id in 1..=200 {
        keys.push(append(&store, id).await.key.clone());
    }
    store.delete(&keys[..10]).await.unwrap();
    drop(store);
    // Another pack takes the next records, so that this one can be scanned.
    let file = std::fs::File::options().write(true).open(pack_file(root.path(), 1)).unwrap();
    file.set_len(super::packs::PACK_SIZE).unwrap();
    let store = reopen(root.path()).await;
    let pinned = append(&store, 201).await;
    assert_eq!(pinned.key.pack_location().unwrap().pack, 2);
    let found: Vec<_> = records(&store, 1).await.unwrap().into_iter().map(|record| record.key).collect();
    assert_eq!(found, keys);
}

#[tokio::test]
async fn a_pack_in_use_is_neither_scanned_nor_removed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let object = append(&store, 1).await;
    let packs = store.packs().unwrap();
    assert_eq!(packs.records(1, 0).await.unwrap_err().kind, ErrorKind::Busy);
    assert_eq!(packs.remove(1).await.unwrap_err().kind, ErrorKind::Busy);
    drop(object);
    assert_eq!(packs.remove(1).await.unwrap_err().kind, ErrorKind::Busy, "the writer uses it");
    drop(store);
    let store = reopen(root.path()).await;
    let error = store.packs().unwrap().remove(1).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "the newest pack stays, so that its number is not used again");
    store.packs().unwrap().seal(1).await.unwrap();
    assert_eq!(records(&store, 1).await.unwrap().len(), 1);
    store.packs().unwrap().remove(1).await.unwrap();
    store.packs().unwrap().remove(1).await.unwrap();
    assert_eq!(store.packs().unwrap().records(1, 0).await.unwrap_err().kind, ErrorKind::NotFound);
}

/// A power failure leaves any prefix of the last write, or other bytes in its place.
#[tokio::test]
async fn a_torn_write_costs_only_itself() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let kept = [append(&store, 1).await.key.clone(), append(&store, 2).await.key.clone()];
    let start = std::fs::metadata(pack_file(root.path(), 1)).unwrap().len();
    let torn = append(&store, 3).await.key.clone();
    drop(store);
    let whole = std::fs::read(pack_file(root.path(), 1)).unwrap();
    let end = whole.len();
    for cut in (usize::try_from(start).unwrap()..end).step_by(37).chain([end - 1]) {
        for is_garbage in [false, true] {
            let mut bytes = whole[..cut].to_vec();
            if is_garbage {
                bytes.resize(end, 0xa5);
            }
            std::fs::write(pack_file(root.path(), 1), bytes).unwrap();
            let store = reopen(root.path()).await;
            let later = append(&store, 4).await.key.clone();
            for (id, key) in (1..).zip(&kept).chain([(4, &later)]) {
                assert_eq!(read(&store, key, 0..content(id).len() as u64).await.unwrap(), content(id));
            }
            drop(store);
            std::fs::write(pack_file(root.path(), 2), b"").unwrap();
            let store = reopen(root.path()).await;
            let mut found = records(&store, 1).await.unwrap().into_iter().map(|record| record.key);
            let expected = kept.iter().chain([&later]);
            // The header may be whole although the content is not. No row refers to the record.
            let is_torn = |key: &Key| key.pack_location() == torn.pack_location();
            assert!(found.clone().filter(|key| !is_torn(key)).eq(expected.cloned()), "{cut}");
            assert!(found.all(|key| store.root.open(&key).is_err()), "packed objects have no files");
            drop(store);
            std::fs::remove_file(pack_file(root.path(), 2)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_later_writes_succeed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let kept = append(&store, 1).await;
    store.set_min_free_space(u64::MAX / 2);
    let refused = PackedContent { blob_id: 2, blake3: [0; 32], bytes: vec![0; 100].into(), is_copy: false };
    let error = store.packs().unwrap().append(refused).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
    let copy = PackedContent { blob_id: 2, blake3: [0; 32], bytes: vec![0; 100].into(), is_copy: true };
    store.packs().unwrap().append(copy).await.unwrap();
    store.set_min_free_space(0);
    let later = append(&store, 3).await;
    for (id, object) in [(1, &kept), (3, &later)] {
        assert_eq!(read(&store, &object.key, 0..content(id).len() as u64).await.unwrap(), content(id));
    }
}

#[tokio::test]
async fn a_store_that_is_opened_to_read_reads_packs() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let object = append(&store, 5).await;
    let reader = Local::open_to_read(root.path()).await.unwrap();
    assert_eq!(read(&reader, &object.key, 0..4885).await.unwrap(), content(5));
    assert!(reader.delete(std::slice::from_ref(&object.key)).await.is_err());
    // Damage is read as it is on the disk.
    let file = std::fs::File::options().write(true).open(pack_file(root.path(), 1)).unwrap();
    file.write_at(b"damage", object.key.pack_location().unwrap().offset).unwrap();
    assert_ne!(read(&reader, &object.key, 0..4885).await.unwrap(), content(5));
}
