//! One file for each kind of task, and the list of them all.

pub mod complete_uploads;
pub mod delete_blob;
pub mod expire_uploads;
pub mod merge_parts;
pub mod sweep;
pub mod verify_blob;

use super::Registry;

/// Returns all handlers of osproxy.
pub fn all() -> Registry {
    Registry::default()
        .with(complete_uploads::CompleteUploads)
        .with(delete_blob::DeleteBlob)
        .with(expire_uploads::ExpireUploads)
        .with(merge_parts::MergeParts)
        .with(sweep::Sweep)
        .with(verify_blob::VerifyBlob)
}
