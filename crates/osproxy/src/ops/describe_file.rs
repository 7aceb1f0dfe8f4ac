//! Describe a file.

pub use crate::meta::{FileRecord, FileState, Layout};

use super::{Tenant, closed, unknown_uid};
use crate::{Result, app::App, uid::Uid};

/// Returns the record of a file of a tenant, in any state. Fails if the file is deleted or expired.
pub async fn describe_file(app: &App, tenant: &Tenant, uid: Uid) -> Result<FileRecord> {
    let file = app.meta.describe_file(uid).await?;
    let file = file.filter(|file| file.tenant == *tenant).ok_or_else(unknown_uid)?;
    match file.state {
        gone @ (FileState::Expired | FileState::Deleted) => Err(closed(gone)),
        _ => Ok(file),
    }
}
