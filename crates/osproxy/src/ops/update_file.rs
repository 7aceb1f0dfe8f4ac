//! Rename a file, or note something of it.

use std::sync::Arc;

use osproxy_api::v1::MetadataChanges;

use super::{Tenant, closed, describe_file::describe_file, name_of, unknown_uid};
use crate::{
    Error, Result,
    app::{App, check_metadata, metadata_refused},
    meta::{FileRecord, Metadata, MetadataChange, Updated},
    uid::Uid,
};

/// Gives a file of a tenant another name if there is one, and changes its metadata. Its content stays where it is. Whoever reads the
/// file afterwards, anywhere, finds it so.
pub async fn update_file(
    app: &Arc<App>,
    tenant: &Tenant,
    uid: Uid,
    name: Option<&str>,
    patch: Option<MetadataChanges>,
) -> Result<FileRecord> {
    let name = name.map(name_of).transpose().map_err(|error| error.with_field("name"))?;
    let change = patch.map(|patch| -> MetadataChange { Arc::new(move |metadata| apply(metadata, &patch)) });
    let updating = update(app.clone(), tenant.clone(), uid, name.map(str::to_owned), change);
    // Brought to its end even if the client is gone: what is remembered of the file must go with it.
    let updating = app.background.spawn(updating);
    match updating.await.map_err(Error::internal)?? {
        Updated::Now => describe_file(app, tenant, uid).await,
        Updated::Refused => Err(metadata_refused()),
        Updated::OverQuota => Err(Error::over_quota()),
        Updated::Closed(state) => Err(closed(state)),
        Updated::Unknown => Err(unknown_uid()),
    }
}

async fn update(
    app: Arc<App>,
    tenant: Tenant,
    uid: Uid,
    name: Option<String>,
    change: Option<MetadataChange>,
) -> Result<Updated> {
    Ok(app.meta.update_file(tenant, uid, name, change).await?)
}

/// Applies a patch; `false`: what came of it is not what metadata may be.
fn apply(metadata: &mut Metadata, patch: &MetadataChanges) -> bool {
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
