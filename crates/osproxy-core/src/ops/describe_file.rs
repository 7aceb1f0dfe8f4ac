//! Describe a file.

pub use osproxy_meta::{ContentLayout, FileRecord, FileState};

use osproxy_types::uid::Uid;

use super::{FileOps, Tenant, state_error, unknown_uid_error};
use crate::Result;
use crate::boxed_future;

/// Returns the record of a tenant's file. Fails with `FileGone` if the file was deleted or has
/// expired, and with `FileNotFound` if the tenant has no such file.
#[boxed_future]
pub async fn describe_file(files: &FileOps, tenant: &Tenant, uid: Uid) -> Result<FileRecord> {
    let file = files.meta.files.record(uid).await?;
    let file = file.filter(|file| file.tenant == *tenant).ok_or_else(unknown_uid_error)?;
    match file.state {
        gone @ (FileState::Expired | FileState::Deleted) => Err(state_error(gone)),
        _ => Ok(file),
    }
}
