//! Change what is recorded about an object besides its content.

pub use osproxy_meta::AttributesEdit;
use osproxy_meta::EditAttributesOutcome;
use osproxy_types::uid::Uid;

use super::UploadOps;
use crate::{Error, Result, boxed_future};

/// Edits the attributes of the object that the file `uid` is, or will be when it is processed. `edit`
/// may be called more than once. Returns `false` if the file is no object: it was replaced or
/// deleted.
#[boxed_future]
pub async fn update_object(uploads: &UploadOps, uid: Uid, edit: AttributesEdit) -> Result<bool> {
    match uploads.meta.objects.edit_attributes(uid, edit).await? {
        EditAttributesOutcome::Edited => Ok(true),
        EditAttributesOutcome::OverQuota => Err(Error::quota_exceeded()),
        EditAttributesOutcome::Unknown => Ok(false),
    }
}
