//! One file for each kind of task, and the list of them all.

pub mod delete_blob;
pub mod expire_uploads;
pub mod merge_parts;
pub mod sweep;

use super::Registry;

/// Every handler that osproxy has.
pub fn all() -> Registry {
    Registry::default()
        .with(delete_blob::DeleteBlob)
        .with(expire_uploads::ExpireUploads)
        .with(merge_parts::MergeParts)
        .with(sweep::Sweep)
}
