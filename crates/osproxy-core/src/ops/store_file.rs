//! Create a file and store its content in one request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use osproxy_types::{error_chain, uid::Uid};

use super::{
    UploadOps, UploadOptions,
    abort_upload::abort_upload,
    create_upload::{UploadRequest, create_upload},
    upload_file::{SizeHint, upload_file},
};
use crate::{Caller, Error, HeldIdempotencyKey, Result, boxed_future};

/// How long the body may take, in seconds. Then the incomplete file expires.
const MAX_DURATION_SECS: i64 = 24 * 60 * 60;

/// Creates a file of the caller's tenant with `body` as its content, and returns its uid when the
/// content is durable. If this fails, the file is removed.
///
/// Announced digests must match the content. If content with these digests is already stored, the
/// file shares that content, and the body is not read.
///
/// With an idempotency key, the file gets the uid that is reserved for the key. A repeated call
/// must have the same content: otherwise, it fails with `AlreadyStored`.
#[boxed_future]
pub async fn store_file<'a>(
    uploads: &'a Arc<UploadOps>,
    caller: &'a Caller,
    request: UploadRequest,
    size: SizeHint,
    body: BoxStream<'a, Result<Bytes>>,
    key: Option<&'a HeldIdempotencyKey>,
) -> Result<Uid> {
    let expire = MAX_DURATION_SECS.min(uploads.limits.max_link_lifetime_secs);
    let created = create_upload(uploads, caller, vec![request], expire, key).await?;
    let missing = || Error::internal("an upload was not created");
    let upload = created.uploads.into_iter().next().ok_or_else(missing)?;
    let uid = upload.uid;
    if upload.is_stored && key.is_none() {
        return Ok(uid);
    }
    let options = UploadOptions { constraints: caller.upload_constraints(), ..UploadOptions::default() };
    let undo = UndoGuard { uploads, uid: key.is_none().then_some(uid) };
    upload_file(uploads, uid, options, size, body).await?;
    undo.disarm();
    Ok(uid)
}

/// Removes the file when it is dropped, even if the client has disconnected.
struct UndoGuard<'a> {
    uploads: &'a Arc<UploadOps>,
    /// `None` if nothing must be removed: a repetition of the request may need the file.
    uid: Option<Uid>,
}

impl UndoGuard<'_> {
    fn disarm(mut self) {
        self.uid = None;
    }
}

impl Drop for UndoGuard<'_> {
    fn drop(&mut self) {
        let Some(uid) = self.uid else {
            return;
        };
        let uploads = self.uploads.clone();
        self.uploads.detached_work.spawn(async move {
            // If this fails, the upload expires later, or it was completed in the last moment.
            if let Err(error) = abort_upload(&uploads, uid).await {
                tracing::debug!(%uid, error = error_chain(&error), "cannot remove an incomplete file");
            }
        });
    }
}
