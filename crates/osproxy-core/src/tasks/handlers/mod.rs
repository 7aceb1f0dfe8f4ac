//! The handlers: one file for each kind of task, and the registry of all handlers. A new kind also
//! needs a variant in `osproxy_meta::TaskKind`.

mod compact_packs;
mod complete_uploads;
mod delete_blob;
mod deliver_webhooks;
mod expire_objects;
mod expire_uploads;
mod merge_parts;
mod process_file;
mod sweep;
mod verify_blob;

use super::Registry;

/// Returns all handlers of osproxy.
pub fn all() -> Registry {
    Registry::default()
        .with(compact_packs::CompactPacks)
        .with(complete_uploads::CompleteUploads)
        .with(delete_blob::DeleteBlob)
        .with(deliver_webhooks::DeliverWebhooks)
        .with(expire_objects::ExpireObjects)
        .with(expire_uploads::ExpireUploads)
        .with(merge_parts::MergeParts)
        .with(process_file::ProcessFile)
        .with(sweep::Sweep)
        .with(verify_blob::VerifyBlob)
}
