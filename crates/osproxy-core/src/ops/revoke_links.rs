//! Revoke the links of a file.

use osproxy_types::uid::Uid;

use super::{FileOps, Tenant, unknown_uid_error};
use crate::Result;

/// Revokes all links to a file of a tenant that were issued until now, for upload and for download.
/// Links issued later are valid. Other nodes apply it when they receive the invalidation, and after
/// `database.cache_max_age` at the latest.
pub async fn revoke_links(files: &FileOps, tenant: &Tenant, uid: Uid) -> Result<()> {
    let is_known = files.meta.access.revoke_links(tenant.clone(), uid).await?;
    if is_known { Ok(()) } else { Err(unknown_uid_error()) }
}
