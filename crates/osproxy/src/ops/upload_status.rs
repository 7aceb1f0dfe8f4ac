//! Tell what is there of a file that is sent in parts.

pub use crate::meta::{FileState, UploadStatus};

use super::{Tenant, closed, unknown_uid};
use crate::{Result, app::App, uid::Uid};

/// Where an upload stands, with the numbers of the parts that were received, ascending. Of a file that is complete, all
/// that it was sent in.
pub async fn upload_status(app: &App, uid: Uid) -> Result<UploadStatus> {
    checked(app.meta.upload_status(uid).await?)
}

/// The same for the owner of the file, and nobody else.
pub async fn own_upload_status(app: &App, tenant: &Tenant, uid: Uid) -> Result<UploadStatus> {
    checked(app.meta.upload_status(uid).await?.filter(|status| status.tenant == *tenant))
}

fn checked(status: Option<UploadStatus>) -> Result<UploadStatus> {
    let status = status.ok_or_else(unknown_uid)?;
    match status.state {
        FileState::Pending | FileState::Receiving | FileState::Completing | FileState::Stored => Ok(status),
        state @ (FileState::Expired | FileState::Corrupt | FileState::Deleted) => Err(closed(state)),
    }
}
