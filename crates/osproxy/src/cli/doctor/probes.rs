//! Probes of a store. The caller limits how long they take and removes what failed probes leave
//! behind.

use std::{error::Error as _, ops::Range, time::SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt;
use osproxy_storage::{
    self as storage, Backend, Diagnosis, ErrorKind, Key, Multipart, ObjectWriter, SizeHint,
};

/// Size of the test object, in bytes. Its content is written in several chunks.
const OBJECT_SIZE: usize = 2 << 20;
/// Size of the last part of a multipart upload, in bytes. Stores accept a last part of any size.
const LAST_PART_SIZE: usize = 1000;
/// Bytes passed to a writer at a time.
const CHUNK_SIZE: usize = 256 << 10;
/// Maximum number of listed objects that are checked: the list may be very long.
const MAX_LISTED: usize = 1000;

/// Why a probe failed.
#[derive(Debug)]
pub(super) enum ProbeError {
    /// The store returned an error.
    Store(storage::Error),
    /// The store behaved incorrectly.
    Misbehaved(&'static str),
}

impl From<storage::Error> for ProbeError {
    fn from(error: storage::Error) -> Self {
        Self::Store(error)
    }
}

type CheckResult<T = String> = Result<T, ProbeError>;

/// Generates the key of a test object. The key is random, so that it differs from all other keys.
pub(super) fn key() -> CheckResult<Key> {
    let mut random = [0; 16];
    let random = getrandom::fill(&mut random).map(|()| hex::encode(random));
    let random = random.map_err(|_| ProbeError::Misbehaved("this machine provides no random numbers"))?;
    Key::parse(&format!("unknown/doctor-{random}"))
        .map_err(|_| ProbeError::Misbehaved("the test key is invalid"))
}

/// Bytes in which all 8-byte words differ, so that misplaced bytes are detected.
fn pattern(len: usize) -> Bytes {
    let words =
        (0..=len as u64 / 8).flat_map(|index| index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(len).collect()
}

/// Content of the test object.
pub(super) fn content() -> Bytes {
    pattern(OBJECT_SIZE)
}

/// Contacts the store. Returns how many seconds the local clock is ahead of the store (negative:
/// behind), or `None` if the store does not report its time.
pub(super) async fn clock_difference(store: &dyn Backend) -> CheckResult<Option<i64>> {
    let before = SystemTime::now();
    let remote = store.clock().await?;
    let local = before + before.elapsed().unwrap_or_default() / 2;
    Ok(remote.map(|remote| {
        let seconds = |span: std::time::Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        local.duration_since(remote).map_or_else(|error| -seconds(error.duration()), seconds)
    }))
}

/// Tests the credentials by reading an object that does not exist. The error response to a read has
/// a body, which explains what is wrong with the credentials. The response to a request for the
/// size of an object has no body.
pub(super) async fn credentials(store: &dyn Backend) -> CheckResult {
    match store.open(&key()?, 0..1).await {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
        // Some stores check the bucket before the signature.
        Err(error) if Diagnosis::of(&error) == Diagnosis::BucketNotFound => {
            Ok("not rejected, but not fully tested, because there is no bucket yet".to_owned())
        }
        _ => Ok("the store accepts the key and its signatures".to_owned()),
    }
}

/// Looks for the buckets. Creates none, because a name may be mistyped. If buckets are missing,
/// returns their names with `may_create`, and fails without it.
pub(super) async fn missing_buckets(store: &dyn Backend, may_create: bool) -> CheckResult<Option<String>> {
    match store.prepare(false).await {
        Ok(()) => Ok(None),
        Err(error) if may_create && Diagnosis::of(&error) == Diagnosis::BucketNotFound => {
            Ok(Some(error.source().map_or_else(String::new, ToString::to_string)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn write(mut writer: Box<dyn ObjectWriter>, content: &Bytes) -> CheckResult {
    for chunk in content.chunks(CHUNK_SIZE) {
        writer.write(content.slice_ref(chunk)).await?;
    }
    writer.finish().await?;
    Ok(writer.publish().await?)
}

/// Reads a range and compares it with what was written.
async fn compare(store: &dyn Backend, key: &Key, range: Range<usize>, content: &Bytes) -> CheckResult<()> {
    let reader = store.open(key, range.start as u64..range.end as u64).await?;
    let chunks: Vec<Bytes> = reader.try_collect().await?;
    if chunks.concat() != content.slice(range) {
        return Err(ProbeError::Misbehaved(
            "the store returned different bytes than were written: files would be corrupted",
        ));
    }
    Ok(())
}

pub(super) async fn put(store: &dyn Backend, key: &Key, content: &Bytes) -> CheckResult {
    write(store.create(key, SizeHint::Exact(content.len() as u64)).await?, content).await?;
    Ok(format!("{} MiB", content.len() >> 20))
}

pub(super) async fn get(store: &dyn Backend, key: &Key, content: &Bytes) -> CheckResult {
    compare(store, key, 0..content.len(), content).await?;
    Ok("the content matches".to_owned())
}

pub(super) async fn range(store: &dyn Backend, key: &Key, content: &Bytes) -> CheckResult {
    let middle = content.len() / 2;
    compare(store, key, middle..middle + 1000, content).await?;
    Ok("1000 bytes from the middle".to_owned())
}

fn multipart(store: &dyn Backend) -> CheckResult<&dyn Multipart> {
    store.multipart().ok_or(ProbeError::Misbehaved("the store does not support multipart uploads"))
}

/// Begins a multipart upload.
pub(super) async fn begin(store: &dyn Backend, key: &Key) -> CheckResult {
    Ok(multipart(store)?.begin(key, None).await?)
}

/// Uploads an object in two parts, in reverse order, completes the upload, and reads the object.
pub(super) async fn parts(store: &dyn Backend, key: &Key, upload: &str) -> CheckResult {
    let uploads = multipart(store)?;
    let first = usize::try_from(uploads.min_part_size()).unwrap_or(usize::MAX);
    let content = pattern(first.saturating_add(LAST_PART_SIZE));
    let mut tags = Vec::new();
    for (number, part) in [(2, content.slice(first..)), (1, content.slice(..first))] {
        let writer = uploads.create_part(key, upload, number, part.len() as u64).await?;
        tags.push((number, write(writer, &part).await?));
    }
    tags.reverse();
    uploads.complete(key, upload, &tags, content.len() as u64).await?;
    compare(store, key, 0..content.len(), &content).await?;
    Ok(format!("two parts, uploaded in reverse order: {LAST_PART_SIZE} bytes, then {} MiB", first >> 20))
}

/// Uploads a part, aborts the multipart upload, and checks that the upload is gone.
pub(super) async fn abort(store: &dyn Backend, key: &Key, upload: &str) -> CheckResult {
    let uploads = multipart(store)?;
    let part = pattern(LAST_PART_SIZE);
    write(uploads.create_part(key, upload, 1, part.len() as u64).await?, &part).await?;
    if !is_listed(uploads, key, upload).await? {
        return Err(ProbeError::Misbehaved(
            "the store does not list a multipart upload: abandoned uploads would never be removed",
        ));
    }
    uploads.abort(key, upload).await?;
    if is_listed(uploads, key, upload).await? {
        return Err(ProbeError::Misbehaved("an aborted multipart upload still exists"));
    }
    Ok("the aborted multipart upload is gone".to_owned())
}

async fn is_listed(uploads: &dyn Multipart, key: &Key, upload: &str) -> CheckResult<bool> {
    let mut listed = uploads.list_uploads(Some(key)).await?;
    while let Some(listed) = listed.try_next().await? {
        if listed.id == upload {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looks for the test object among the first [`MAX_LISTED`] objects of the store.
pub(super) async fn list(store: &dyn Backend, key: &Key) -> CheckResult {
    let mut objects = store.list().await?;
    for _ in 0..MAX_LISTED {
        match objects.try_next().await? {
            Some(object) if object.name == key.as_str() => {
                return Ok("the test object is listed".to_owned());
            }
            Some(_) => {}
            None => {
                return Err(ProbeError::Misbehaved(
                    "the store does not list the test object: `fsck` would miss objects",
                ));
            }
        }
    }
    Ok(format!("the first {MAX_LISTED} objects were listed"))
}

/// Deletes objects and checks that they are gone.
pub(super) async fn delete(store: &dyn Backend, keys: &[Key]) -> CheckResult {
    store.delete(keys).await?;
    for key in keys {
        match store.size(key).await {
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Err(ProbeError::Misbehaved("a deleted object still exists")),
        }
    }
    Ok("the test objects are gone".to_owned())
}

/// Test data that may still be in the store.
#[derive(Default)]
pub(super) struct Leftovers {
    pub(super) objects: Vec<Key>,
    /// Keys and ids of multipart uploads; the id is `None` if it is unknown whether the upload
    /// began.
    pub(super) uploads: Vec<(Key, Option<String>)>,
}

/// Removes the test data that failed probes left behind. Continues after an error, and returns the
/// first error.
pub(super) async fn clean_up(store: &dyn Backend, leftovers: &Leftovers) -> CheckResult {
    let uploads = multipart(store)?;
    let mut outcome: CheckResult<()> = Ok(());
    for (key, upload) in &leftovers.uploads {
        outcome = outcome.and(match upload {
            Some(upload) => uploads.abort(key, upload).await.map_err(ProbeError::from),
            None => uploads.abort_all(key, None).await.map_err(ProbeError::from),
        });
    }
    let deleted = store.delete(&leftovers.objects).await.map_err(ProbeError::from);
    outcome.and(deleted).map(|()| "leftover test data is removed".to_owned())
}

#[cfg(test)]
mod tests {
    use osproxy_storage::backends::Memory;

    use super::*;

    #[tokio::test]
    async fn damaged_and_missing_objects_are_noticed() {
        let (store, object, content) = (Memory::default(), key().unwrap(), content());
        put(&store, &object, &content).await.unwrap();
        assert!(get(&store, &object, &content).await.is_ok());
        assert!(range(&store, &object, &content).await.is_ok());
        assert!(list(&store, &object).await.is_ok());

        let mut damaged = content.to_vec();
        damaged[OBJECT_SIZE / 2 + 999] ^= 1;
        put(&store, &object, &damaged.into()).await.unwrap();
        assert!(matches!(get(&store, &object, &content).await, Err(ProbeError::Misbehaved(_))));
        assert!(matches!(range(&store, &object, &content).await, Err(ProbeError::Misbehaved(_))));
        assert!(delete(&store, std::slice::from_ref(&object)).await.is_ok());
        assert!(matches!(list(&store, &object).await, Err(ProbeError::Misbehaved(_))));
    }
}
