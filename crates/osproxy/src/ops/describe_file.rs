//! Tell what is known of a file.

pub use crate::meta::{FileRecord, FileState, Layout};

use super::{Tenant, closed, unknown_uid};
use crate::{Result, app::App, uid::Uid};

/// All that is known of a file of a tenant, in whatever state it is; an error if it is gone.
pub async fn describe_file(app: &App, tenant: &Tenant, uid: Uid) -> Result<FileRecord> {
    let file = app.meta.describe_file(uid).await?;
    let file = file.filter(|file| file.tenant == *tenant).ok_or_else(unknown_uid)?;
    match file.state {
        gone @ (FileState::Expired | FileState::Deleted) => Err(closed(gone)),
        _ => Ok(file),
    }
}
