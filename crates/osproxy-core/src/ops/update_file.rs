//! Change the name or the metadata of a file.

use std::sync::Arc;

use osproxy_api::v1::MetadataChanges;
use osproxy_meta::{FileMetadata, FileRecord, MetadataEdit, UpdateOutcome};
use osproxy_types::uid::Uid;

use super::{FileOps, Tenant, describe_file::describe_file, file_name, state_error, unknown_uid_error};
use crate::{Error, Result, boxed_future, check_metadata, metadata_error};

/// Renames a file of a tenant if `name` is given, and applies `patch` to its metadata. The content
/// does not change. Other nodes may use the cached old name until they receive the invalidation,
/// for at most `database.cache_max_age`.
#[boxed_future]
pub async fn update_file(
    files: &Arc<FileOps>,
    tenant: &Tenant,
    uid: Uid,
    name: Option<&str>,
    patch: Option<MetadataChanges>,
) -> Result<FileRecord> {
    let name = name.map(file_name).transpose().map_err(|error| error.with_field("name"))?;
    let change =
        patch.map(|patch| -> MetadataEdit { Arc::new(move |metadata| apply_patch(metadata, &patch)) });
    let updating = update(files.clone(), tenant.clone(), uid, name.map(str::to_owned), change);
    // Spawned: after the row changes, the cached file must be invalidated, even if the client
    // disconnects.
    let updating = files.detached_work.spawn(updating);
    match updating.await.map_err(Error::internal)?? {
        UpdateOutcome::Updated => describe_file(files, tenant, uid).await,
        UpdateOutcome::InvalidMetadata => Err(metadata_error()),
        UpdateOutcome::OverQuota => Err(Error::quota_exceeded()),
        UpdateOutcome::Gone(state) => Err(state_error(state)),
        UpdateOutcome::Unknown => Err(unknown_uid_error()),
    }
}

async fn update(
    files: Arc<FileOps>,
    tenant: Tenant,
    uid: Uid,
    name: Option<String>,
    change: Option<MetadataEdit>,
) -> Result<UpdateOutcome> {
    Ok(files.meta.files.update(tenant, uid, name, change).await?)
}

/// Applies a patch. Returns `false` if the result exceeds the limits of metadata.
fn apply_patch(metadata: &mut FileMetadata, patch: &MetadataChanges) -> bool {
    let MetadataChanges::Set(patch) = patch else {
        metadata.clear();
        return true;
    };
    for (key, value) in patch {
        match value {
            Some(value) => drop(metadata.insert(key.clone(), value.clone())),
            None => drop(metadata.remove(key)),
        }
    }
    check_metadata(metadata).is_ok()
}
