//! Multipart uploads of objects: create, list, list parts, complete and abort.

use std::sync::Arc;

use osproxy_api::ErrorCode;
use osproxy_meta::{CompleteRequest, ExpectedDigests, SelectPartsOutcome, etag_of_parts};
pub use osproxy_meta::{ObjectUploadRecord, UploadedPart};
use osproxy_types::uid::Uid;

use super::{
    LinkConstraints, UploadOps,
    abort_upload::abort_upload,
    complete_upload::{Terms, complete},
    create_upload::create_upload,
    find_object::BucketRecord,
    put_object::{ObjectRequest, StoredObject, upload_request},
    state_error, unknown_uid_error,
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

/// Replaces the attributes of a multipart upload, for example with the checksums of the whole
/// content. Does nothing if they changed since `upload` was read.
#[boxed_future]
pub async fn set_upload_attributes(
    uploads: &UploadOps,
    upload: &ObjectUploadRecord,
    attributes: Option<String>,
) -> Result<()> {
    let old = upload.attributes.clone();
    Ok(uploads.meta.objects.set_upload_attributes(upload.uid, old, attributes).await?)
}

/// Makes the parts with these numbers and MD5s the content of the object, and removes all others.
/// `parts` must be the numbers from 1 in ascending order; together they must have `size` bytes. Fails with `PartsMissing`, `PartTooSmall` or
/// `PreconditionFailed`. Idempotent.
#[boxed_future]
pub async fn complete_object_upload(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    parts: Vec<(u32, [u8; 16])>,
    size: Option<u64>,
) -> Result<StoredObject> {
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    if !parts.iter().map(|part| part.0).eq(1..=count) {
        let message = "the numbers of the parts must be 1, 2, 3 and so on, without gaps";
        return Err(Error::new(ErrorCode::PartsMissing, message));
    }
    let etag = etag_of_parts(&parts.iter().map(|part| part.1).collect::<Vec<_>>());
    match uploads.meta.objects.select_parts(uid, parts, etag.clone(), MIN_PART_SIZE).await? {
        SelectPartsOutcome::Selected => {
            let request = CompleteRequest { parts: Some(count), size, expected: ExpectedDigests::default() };
            let terms = Terms { constraints: LinkConstraints::default(), etag: Some(etag.clone()) };
            complete(uploads, uid, request, terms).await?;
            Ok(StoredObject { uid, etag })
        }
        // An earlier request has completed it.
        SelectPartsOutcome::NotOpen(state) if state.is_complete() => {
            let etag = uploads.meta.objects.etag_of(uid).await?.ok_or_else(unknown_uid_error)?;
            Ok(StoredObject { uid, etag })
        }
        SelectPartsOutcome::NotOpen(state) => Err(state_error(state)),
        SelectPartsOutcome::Missing(number) => {
            let message = format!("part {number} is missing or has another ETag");
            Err(Error::new(ErrorCode::PartsMissing, message))
        }
        SelectPartsOutcome::TooSmall(number) => {
            let message = format!("part {number} is smaller than {MIN_PART_SIZE} bytes and not the last");
            Err(Error::new(ErrorCode::PartTooSmall, message))
        }
        SelectPartsOutcome::Unknown => Err(unknown_uid_error()),
    }
}

/// Ends a multipart upload; a task removes its parts.
#[boxed_future]
pub async fn abort_object_upload(uploads: &Arc<UploadOps>, uid: Uid) -> Result<()> {
    abort_upload(uploads, uid).await
}
