//! Store content under a key of a bucket.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use osproxy_meta::{AnnouncedContent, NewObject};
pub use osproxy_meta::{BucketRecord, ExpectedDigests, FileMetadata, MAX_OBJECT_KEY, ObjectCondition};
use osproxy_storage::{DigestSelection, SizeHint};
use osproxy_types::uid::Uid;

use super::{
    UploadOps, UploadOptions,
    create_upload::UploadRequest,
    object_refusal_error,
    store_file::{NewContent, store_content},
};
use crate::{Caller, Error, Result, boxed_future};

/// What a client says about a new object.
#[derive(Clone, Debug, Default)]
pub struct ObjectRequest {
    /// The key.
    pub key: String,
    /// MIME type.
    pub content_type: Option<String>,
    /// Metadata set by the owner.
    pub metadata: FileMetadata,
    /// Headers, tags and checksums, in a format of the caller.
    pub attributes: Option<String>,
    /// What must hold for the object that has the key now.
    pub condition: Option<ObjectCondition>,
}

/// A new object.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Its file.
    pub uid: Uid,
    /// Its `ETag`, without quotes.
    pub etag: String,
}

/// Stores `body` as an object, and returns when it is durable. The file that had the key before is
/// deleted in the same moment, if it was created as an object. A body that fails, or does not have
/// the expected digests, changes nothing.
#[boxed_future]
pub async fn put_object<'a>(
    uploads: &'a Arc<UploadOps>,
    caller: &'a Caller,
    bucket: &'a BucketRecord,
    request: ObjectRequest,
    expected: ExpectedDigests,
    size: SizeHint,
    body: BoxStream<'a, Result<Bytes>>,
) -> Result<StoredObject> {
    check_condition(uploads, bucket, &request).await?;
    let request = upload_request(uploads, bucket, request, false).await?;
    let constraints = caller.upload_constraints();
    let options =
        UploadOptions { expected, digests: DigestSelection::MD5, constraints, ..UploadOptions::default() };
    let content = NewContent { size, body, describes: false };
    let stored = store_content(uploads, caller, request, options, content, None).await?;
    let md5 = stored.digests.and_then(|digests| digests.md5);
    let md5 = md5.ok_or_else(|| Error::internal("the MD5 of an object was not computed"))?;
    Ok(StoredObject { uid: stored.uid, etag: hex::encode(md5) })
}

/// Fails early if the condition does not hold now. It is checked again when the key is written.
pub(super) async fn check_condition(
    uploads: &Arc<UploadOps>,
    bucket: &BucketRecord,
    request: &ObjectRequest,
) -> Result<()> {
    let Some(condition) = &request.condition else {
        return Ok(());
    };
    let current = uploads.meta.objects.last_etag(bucket.id, &request.key).await?;
    match condition.refusal(current.as_deref()) {
        Some(refusal) => Err(object_refusal_error(refusal)),
        None => Ok(()),
    }
}

/// Checks the request and converts it to the request for a file.
pub(super) async fn upload_request(
    uploads: &UploadOps,
    bucket: &BucketRecord,
    request: ObjectRequest,
    is_multipart: bool,
) -> Result<UploadRequest> {
    let ObjectRequest { key, content_type, metadata, attributes, condition } = request;
    let path = name_of_key(&key)?;
    let task_id = uploads.uids.next().await?;
    let object = NewObject { bucket_id: bucket.id, key, condition, attributes, is_multipart, task_id };
    let object = Some(Arc::new(object));
    let announced = AnnouncedContent { content_type, metadata, object, ..AnnouncedContent::default() };
    Ok(UploadRequest { path, announced, arrives_in_order: false })
}

/// The name of the file of an object: the last component of the key that is not empty. Fails with
/// `InvalidArgument` unless the key is valid.
pub(super) fn name_of_key(key: &str) -> Result<String> {
    if key.is_empty() || key.len() > MAX_OBJECT_KEY {
        let message = format!("a key must have 1 to {MAX_OBJECT_KEY} bytes");
        return Err(Error::invalid(message).with_field("key"));
    }
    if key.contains('\0') {
        return Err(Error::invalid("a key must not contain NUL").with_field("key"));
    }
    let name = key.rsplit('/').find(|part| !part.is_empty()).unwrap_or("object");
    Ok(name.to_owned())
}
