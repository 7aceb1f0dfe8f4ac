//! Multipart uploads of objects: create, list, list parts, complete and abort.

use std::sync::Arc;

use osproxy_api::ErrorCode;
use osproxy_meta::{CompleteRequest, ExpectedDigests, PartSelection, etag_of_parts};
pub use osproxy_meta::{ObjectUploadRecord, UploadedPart};
use osproxy_types::uid::Uid;

use super::{
    LinkConstraints, UploadOps,
    abort_upload::abort_upload,
    complete_upload::{Terms, complete},
    create_upload::create_upload,
    find_object::BucketRecord,
    put_object::{ObjectCondition, ObjectRequest, StoredObject, upload_request},
    unknown_uid_error,
};
use crate::{Caller, Error, Result, boxed_future};

/// How long a multipart upload may take, in seconds. Then it expires.
const MAX_DURATION_SECS: i64 = 7 * 24 * 60 * 60;
/// Minimum size of a part that is not the last, in bytes.
const MIN_PART_SIZE: u64 = 5 << 20;

/// Begins a multipart upload. Returns its id, the uid of the file. If it is not completed within a
/// week, it expires and its parts are removed.
#[boxed_future]
pub async fn create_object_upload(
    uploads: &Arc<UploadOps>,
    caller: &Caller,
    bucket: &BucketRecord,
    request: ObjectRequest,
) -> Result<Uid> {
    let request = upload_request(uploads, bucket, request, true).await?;
    let expire = MAX_DURATION_SECS.min(uploads.limits.max_link_lifetime_secs);
    let created = create_upload(uploads, caller, vec![request], expire, None).await?;
    let upload = created.uploads.into_iter().next();
    Ok(upload.ok_or_else(|| Error::internal("an upload was not created"))?.uid)
}

/// Returns the multipart upload `uid` of this key. Fails with `FileNotFound` if there is none.
#[boxed_future]
pub async fn find_object_upload(
    uploads: &UploadOps,
    bucket: &BucketRecord,
    key: &str,
    uid: Uid,
) -> Result<ObjectUploadRecord> {
    let found = uploads.meta.objects.upload(uid).await?;
    found.filter(|upload| upload.bucket_id == bucket.id && upload.key == key).ok_or_else(unknown_uid_error)
}

/// Returns up to `limit` multipart uploads whose keys start with `prefix`, in the order of keys and
/// ids, behind the key and id `after`.
#[boxed_future]
pub async fn list_object_uploads(
    uploads: &UploadOps,
    bucket: &BucketRecord,
    prefix: &str,
    after: (&str, Option<Uid>),
    limit: u64,
) -> Result<Vec<ObjectUploadRecord>> {
    Ok(uploads.meta.objects.uploads(bucket.id, prefix, after, limit).await?)
}

/// Returns up to `limit` parts of a multipart upload with numbers above `after`, ascending.
#[boxed_future]
pub async fn list_object_parts(
    uploads: &UploadOps,
    uid: Uid,
    after: u32,
    limit: u64,
) -> Result<Vec<UploadedPart>> {
    Ok(uploads.meta.objects.parts(uid, after, limit).await?)
}

/// A request to complete a multipart upload.
#[derive(Clone, Debug)]
pub struct ObjectCompletion {
    /// The numbers of the parts, in ascending order, and their MD5s. There may be gaps.
    pub parts: Vec<(u32, [u8; 16])>,
    /// Total size of the parts in bytes, if the client says it.
    pub size: Option<u64>,
    /// What must hold for the object that has the key.
    pub condition: Option<ObjectCondition>,
    /// Headers, tags and checksums of the object, in a format of the caller.
    pub attributes: Option<String>,
}

/// Makes parts the content of the object, and removes all others. Fails with `PartsMissing`,
/// `PartTooSmall`, `SizeMismatch`, `ObjectNotFound` or `PreconditionFailed`; then the upload stays as it
/// was. Fails with `Superseded` if the key was written while the store completed the upload, and the
/// condition does not hold any more; then the upload has ended. Idempotent.
#[boxed_future]
pub async fn complete_object_upload(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    completion: ObjectCompletion,
) -> Result<StoredObject> {
    let ObjectCompletion { parts, size, condition, attributes } = completion;
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let etag = etag_of_parts(&parts.iter().map(|part| part.1).collect::<Vec<_>>());
    let request = CompleteRequest { parts: Some(count), size, expected: ExpectedDigests::default() };
    let selection = PartSelection { parts, min_size: MIN_PART_SIZE, condition, attributes };
    let selection = Some(Arc::new(selection));
    let terms = Terms { constraints: LinkConstraints::default(), selection };
    let completing = uploads.clone();
    // Spawned: the object that is replaced must leave the caches even if the client disconnects.
    let completed =
        uploads.detached_work.spawn(async move { complete(&completing, uid, request, terms).await });
    let is_new = match completed.await.map_err(Error::internal)? {
        Ok(()) => true,
        // An earlier request has completed it.
        Err(error) if error.code == ErrorCode::AlreadyStored => false,
        Err(error) => return Err(error),
    };
    match uploads.meta.objects.completed_upload(uid).await? {
        Some(completed) => Ok(StoredObject { uid, etag: completed.etag }),
        // The object was replaced or deleted meanwhile.
        None if is_new => Ok(StoredObject { uid, etag }),
        None => Err(unknown_uid_error()),
    }
}

/// Whether the upload `uid` of this key was completed, and its object has not been replaced.
#[boxed_future]
pub async fn is_completed_upload(
    uploads: &UploadOps,
    bucket: &BucketRecord,
    key: &str,
    uid: Uid,
) -> Result<bool> {
    let completed = uploads.meta.objects.completed_upload(uid).await?;
    Ok(completed.is_some_and(|upload| upload.bucket_id == bucket.id && upload.key == key))
}

/// Ends a multipart upload; a task removes its parts.
#[boxed_future]
pub async fn abort_object_upload(uploads: &Arc<UploadOps>, uid: Uid) -> Result<()> {
    abort_upload(uploads, uid).await
}
