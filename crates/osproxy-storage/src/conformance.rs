//! Conformance suite of [`Backend`]. The tests of each backend call [`run`], which leaves the store
//! empty.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use crate::{Backend, Digester, ErrorKind, Key, ObjectWriter, SizeHint};

pub(crate) mod multipart;

pub(crate) async fn run(store: &dyn Backend) {
    objects_are_read_as_written(store).await;
    digests_are_of_the_content(store).await;
    ranges_are_exact(store).await;
    missing_objects_are_not_found(store).await;
    unpublished_objects_are_invisible(store).await;
    a_dropped_writer_leaves_nothing(store).await;
    one_of_two_writers_wins(store).await;
    a_reader_returns_bytes_of_one_object(store).await;
    a_wrong_size_hint_is_harmless(store).await;
    objects_can_be_appended_to_another(store).await;
    a_range_is_appended(store).await;
    a_range_beyond_the_object_is_not_appended(store).await;
    everything_is_listed_and_deleted_together(store).await;
}

fn key(name: &str) -> Key {
    Key::parse(&format!("unknown/{name}")).unwrap()
}

/// Bytes that differ at every offset, so that shifted or mixed reads are detected.
fn pattern(seed: u64, len: usize) -> Bytes {
    let word = |index: u64| (index ^ (seed << 48)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = (0..=len as u64 / 8).flat_map(|index| word(index).to_le_bytes());
    words.take(len).collect()
}

async fn put(store: &dyn Backend, key: &Key, content: &Bytes, hint: SizeHint) {
    let mut writer = store.create(key, hint).await.unwrap();
    for chunk in content.chunks(60_001) {
        writer.write(content.slice_ref(chunk)).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap().size, content.len() as u64);
    writer.publish().await.unwrap();
}

/// Replaces an object. Deletes the old object first if the store does not replace objects.
async fn replace(store: &dyn Backend, key: &Key, content: &Bytes) {
    let mut writer = store.create(key, SizeHint::Exact(content.len() as u64)).await.unwrap();
    writer.write(content.clone()).await.unwrap();
    writer.finish().await.unwrap();
    if let Err(error) = writer.publish().await {
        assert_eq!(error.kind, ErrorKind::Exists, "{error:?}");
        store.delete(std::slice::from_ref(key)).await.unwrap();
        put(store, key, content, SizeHint::Unknown).await;
    }
}

async fn get(store: &dyn Backend, key: &Key, start: usize, end: usize) -> Vec<u8> {
    let mut reader = store.open(key, start as u64..end as u64).await.unwrap();
    let mut content = Vec::new();
    while let Some(bytes) = reader.next().await {
        content.extend_from_slice(&bytes.unwrap());
    }
    content
}

async fn assert_absent(store: &dyn Backend, key: &Key) {
    let opened = store.open(key, 0..0).await;
    assert_eq!(opened.err().map(|error| error.kind), Some(ErrorKind::NotFound));
    let size = store.size(key).await;
    assert_eq!(size.err().map(|error| error.kind), Some(ErrorKind::NotFound));
}

async fn objects_are_read_as_written(store: &dyn Backend) {
    let batch = 256 * 1024;
    for len in [0, 1, batch - 1, batch, batch + 1, 5_000_011, 20_000_003] {
        let (key, content) = (key(&format!("{len}.bin")), pattern(1, len));
        for hint in [SizeHint::Exact(len as u64), SizeHint::Unknown] {
            put(store, &key, &content, hint).await;
            assert_eq!(store.size(&key).await.unwrap(), len as u64);
            assert!(get(store, &key, 0, len).await == content, "{len} bytes");
            store.delete(std::slice::from_ref(&key)).await.unwrap();
            assert_absent(store, &key).await;
        }
    }
}

async fn digests_are_of_the_content(store: &dyn Backend) {
    let content = pattern(2, 1_000_003);
    let mut expected = Digester::default();
    expected.update(&content);
    let mut writer = store.create(&key("digests"), SizeHint::Unknown).await.unwrap();
    for chunk in content.chunks(7_919) {
        writer.write(content.slice_ref(chunk)).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), expected.finish());
}

async fn ranges_are_exact(store: &dyn Backend) {
    let (key, len) = (key("ranges"), 1_500_007);
    let content = pattern(3, len);
    put(store, &key, &content, SizeHint::Unknown).await;
    for (start, end) in [(0, 0), (0, 1), (len - 1, len), (len, len), (65_535, 65_537), (1, len - 1)] {
        let read = get(store, &key, start, end).await;
        assert!(read == content[start..end], "{start}..{end}");
    }
    // Either `open` or the reader must fail: a short read must never look complete.
    let beyond = match store.open(&key, 0..len as u64 + 1).await {
        Err(error) => Err(error),
        Ok(reader) => reader.try_for_each(|_| std::future::ready(Ok(()))).await,
    };
    assert_eq!(beyond.err().map(|error| error.kind), Some(ErrorKind::Truncated));
    store.delete(std::slice::from_ref(&key)).await.unwrap();
}

async fn missing_objects_are_not_found(store: &dyn Backend) {
    assert_absent(store, &key("never-written")).await;
    let elsewhere = Key::parse("nowhere/never-written").unwrap();
    assert_absent(store, &elsewhere).await;
    store.delete(std::slice::from_ref(&elsewhere)).await.unwrap();
}

async fn unpublished_objects_are_invisible(store: &dyn Backend) {
    let key = key("unpublished");
    let mut writer = store.create(&key, SizeHint::Unknown).await.unwrap();
    writer.write(pattern(4, 600_000)).await.unwrap();
    assert_absent(store, &key).await;
    writer.finish().await.unwrap();
    assert_absent(store, &key).await;
    writer.publish().await.unwrap();
    assert_eq!(store.size(&key).await.unwrap(), 600_000);
    store.delete(std::slice::from_ref(&key)).await.unwrap();
}

async fn a_dropped_writer_leaves_nothing(store: &dyn Backend) {
    let key = key("dropped");
    for len in [0, 100, 600_000] {
        let mut unfinished = store.create(&key, SizeHint::Exact(len)).await.unwrap();
        let content = pattern(5, usize::try_from(len).unwrap());
        unfinished.write(content.clone()).await.unwrap();
        drop(unfinished);
        let mut finished = store.create(&key, SizeHint::Unknown).await.unwrap();
        finished.write(content).await.unwrap();
        finished.finish().await.unwrap();
        drop(finished);
        assert_absent(store, &key).await;
    }
}

async fn one_of_two_writers_wins(store: &dyn Backend) {
    let key = key("contended");
    let (first, second) = (pattern(6, 700_000), pattern(7, 300_000));
    let mut one = store.create(&key, SizeHint::Unknown).await.unwrap();
    let mut two = store.create(&key, SizeHint::Unknown).await.unwrap();
    for chunk in first.chunks(100_000) {
        one.write(first.slice_ref(chunk)).await.unwrap();
    }
    two.write(second.clone()).await.unwrap();
    one.finish().await.unwrap();
    two.finish().await.unwrap();
    one.publish().await.unwrap();
    assert!(get(store, &key, 0, first.len()).await == first);
    // The second writer replaces the object, or fails.
    let winner = match two.publish().await {
        Ok(_) => second,
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Exists, "{error:?}");
            first
        }
    };
    assert_eq!(store.size(&key).await.unwrap(), winner.len() as u64);
    assert!(get(store, &key, 0, winner.len()).await == winner);
    store.delete(std::slice::from_ref(&key)).await.unwrap();
}

async fn a_reader_returns_bytes_of_one_object(store: &dyn Backend) {
    let key = key("kept");
    let content = pattern(8, 2_000_000);
    put(store, &key, &content, SizeHint::Unknown).await;
    let mut before_replacing = store.open(&key, 0..2_000_000).await.unwrap();
    let first = before_replacing.next().await.unwrap().unwrap();
    replace(store, &key, &pattern(9, 2_000_000)).await;
    let mut before_deleting = store.open(&key, 0..2_000_000).await.unwrap();
    store.delete(std::slice::from_ref(&key)).await.unwrap();

    let mut read = first.to_vec();
    let is_complete = read_to_end(&mut before_replacing, &mut read).await;
    assert!(content.starts_with(&read), "the reader returned bytes of another object");
    assert!(read == content || !is_complete, "the reader ended early after the object was replaced");
    let mut read = Vec::new();
    let is_complete = read_to_end(&mut before_deleting, &mut read).await;
    assert!(pattern(9, 2_000_000).starts_with(&read), "the reader returned bytes of another object");
    assert!(read.len() == 2_000_000 || !is_complete, "the reader ended early after the object was deleted");
}

/// Reads to the end. Returns `false` if the reader failed before the end.
async fn read_to_end(reader: &mut crate::ObjectReader, into: &mut Vec<u8>) -> bool {
    while let Some(bytes) = reader.next().await {
        match bytes {
            Ok(bytes) => into.extend_from_slice(&bytes),
            Err(_) => return false,
        }
    }
    true
}

async fn a_wrong_size_hint_is_harmless(store: &dyn Backend) {
    let key = key("hinted");
    let content = pattern(10, 3_000_000);
    for hint in [0, 1, 2_999_999, 40_000_000, u64::MAX / 4] {
        put(store, &key, &content, SizeHint::AtMost(hint)).await;
        assert_eq!(store.size(&key).await.unwrap(), 3_000_000);
        assert!(get(store, &key, 0, 3_000_000).await == content, "hint {hint}");
        store.delete(std::slice::from_ref(&key)).await.unwrap();
    }
}

async fn objects_can_be_appended_to_another(store: &dyn Backend) {
    // Sizes around the chunk sizes of implementations, and some that are not multiples of a block.
    let sizes = [1, 0, 4096, 1_048_576, 9_000_001, 262_144, 7];
    let content = pattern(11, sizes.iter().sum());
    let (mut parts, mut at) = (Vec::new(), 0);
    for (number, size) in sizes.into_iter().enumerate() {
        let part = key(&format!("whole_{number}"));
        put(store, &part, &content.slice(at..at + size), SizeHint::Exact(size as u64)).await;
        at += size;
        parts.push((part, size as u64));
    }
    let whole = key("whole");
    let mut writer = store.create(&whole, SizeHint::Exact(content.len() as u64 + 3)).await.unwrap();
    // Bytes written before and after the appended objects are kept, in order.
    writer.write(Bytes::from_static(b"<")).await.unwrap();
    for (part, size) in &parts {
        append(store, &mut *writer, part, *size).await;
    }
    writer.write(Bytes::from_static(b"/>")).await.unwrap();
    let mut expected = Digester::default();
    expected.update(b"<");
    expected.update(&content);
    expected.update(b"/>");
    assert_eq!(writer.finish().await.unwrap(), expected.finish());
    assert_absent(store, &whole).await;
    writer.publish().await.unwrap();
    assert!(get(store, &whole, 1, content.len() + 1).await == content);
    assert_eq!(get(store, &whole, content.len() + 1, content.len() + 3).await, b"/>");
    for (part, size) in &parts {
        assert_eq!(store.size(part).await.unwrap(), *size, "an appended object was changed");
    }
    parts.push((whole, 0));
    store.delete(&parts.into_iter().map(|(key, _)| key).collect::<Vec<_>>()).await.unwrap();
}

/// Appends the object at `key` to `writer`. If the store does not support this, copies the bytes.
async fn append(store: &dyn Backend, writer: &mut dyn ObjectWriter, key: &Key, size: u64) {
    if writer.append_object(key, 0..size).await.unwrap() {
        return;
    }
    let mut object = store.open(key, 0..size).await.unwrap();
    while let Some(bytes) = object.next().await {
        writer.write(bytes.unwrap()).await.unwrap();
    }
}

async fn a_range_is_appended(store: &dyn Backend) {
    let (source, target) = (key("range-source"), key("range-target"));
    let content = pattern(14, 300_000);
    put(store, &source, &content, SizeHint::Unknown).await;
    let mut writer = store.create(&target, SizeHint::Unknown).await.unwrap();
    for range in [100_000..300_000, 0..0, 7..70_001] {
        let bytes = content.slice(range.clone());
        if !writer.append_object(&source, range.start as u64..range.end as u64).await.unwrap() {
            writer.write(bytes).await.unwrap();
        }
    }
    let size = writer.finish().await.unwrap().size;
    writer.publish().await.unwrap();
    assert_eq!(size, 269_994);
    let appended = get(store, &target, 0, 269_994).await;
    assert!(appended[..200_000] == content[100_000..] && appended[200_000..] == content[7..70_001]);
    store.delete(&[source, target]).await.unwrap();
}

async fn a_range_beyond_the_object_is_not_appended(store: &dyn Backend) {
    let part = key("unfit_1");
    put(store, &part, &pattern(12, 300_000), SizeHint::Unknown).await;
    for (name, size, kind) in
        [(&part, 300_001, ErrorKind::Truncated), (&key("never-written"), 1, ErrorKind::NotFound)]
    {
        let mut writer = store.create(&key("unfit"), SizeHint::Unknown).await.unwrap();
        match writer.append_object(name, 0..size).await {
            Ok(appended) => assert!(!appended, "{size}"),
            Err(error) => assert_eq!(error.kind, kind, "{size}"),
        }
    }
    store.delete(&[part]).await.unwrap();
    assert_absent(store, &key("unfit")).await;
}

async fn everything_is_listed_and_deleted_together(store: &dyn Backend) {
    let keys = [key("listed-1"), key("listed-2"), Key::parse("image/listed").unwrap()];
    for key in &keys {
        put(store, key, &pattern(13, 1000), SizeHint::Unknown).await;
    }
    let mut listed: Vec<_> = store.list().await.unwrap().try_collect().await.unwrap();
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    let names: Vec<_> = listed.iter().map(|listed| (listed.name.as_str(), listed.size)).collect();
    assert_eq!(names, [("image/listed", 1000), ("unknown/listed-1", 1000), ("unknown/listed-2", 1000)]);
    store.delete(&keys).await.unwrap();
    store.delete(&keys).await.unwrap();
    assert_eq!(store.list().await.unwrap().count().await, 0);
}
