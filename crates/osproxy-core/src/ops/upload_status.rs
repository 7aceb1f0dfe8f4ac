//! Describe an upload.

pub use osproxy_meta::{FileState, UploadProgress};

use osproxy_types::uid::Uid;

use super::{Tenant, UploadOps, state_error, unknown_uid_error};
use crate::Result;
use crate::boxed_future;

/// Returns the status of an upload, with the numbers of the received parts in ascending order. If
/// the file is complete, these are the parts in which the content was sent. Fails if the upload was
/// aborted or has expired, or if the content was rejected.
#[boxed_future]
pub async fn upload_status(uploads: &UploadOps, uid: Uid) -> Result<UploadProgress> {
    visible_status(uploads.meta.uploads.status(uid).await?)
}

/// Like [`upload_status`], but only for files of `tenant`.
#[boxed_future]
pub async fn own_upload_status(uploads: &UploadOps, tenant: &Tenant, uid: Uid) -> Result<UploadProgress> {
    visible_status(uploads.meta.uploads.status(uid).await?.filter(|status| status.tenant == *tenant))
}

fn visible_status(status: Option<UploadProgress>) -> Result<UploadProgress> {
    let status = status.ok_or_else(unknown_uid_error)?;
    match status.state {
        FileState::Pending
        | FileState::Receiving
        | FileState::Completing
        | FileState::Partial
        | FileState::Processing
        | FileState::Stored => Ok(status),
        state @ (FileState::Expired
        | FileState::Corrupt
        | FileState::Rejected
        | FileState::Quarantined
        | FileState::Deleted) => Err(state_error(state)),
    }
}
