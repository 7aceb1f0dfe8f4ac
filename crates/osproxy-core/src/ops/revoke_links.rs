//! Revoke the links of a file.

use osproxy_types::uid::Uid;

use super::{FileOps, Tenant, unknown_uid_error};
use crate::Result;
use crate::boxed_future;

/// Revokes all upload and download links to a tenant's file that were issued until now. Links
/// issued later are valid. Other nodes reject the revoked links once they receive the cache
/// invalidation, at the latest after `database.cache_max_age`.
#[boxed_future]
pub async fn revoke_links(files: &FileOps, tenant: &Tenant, uid: Uid) -> Result<()> {
    let is_known = files.meta.access.revoke_links(tenant.clone(), uid).await?;
    if is_known { Ok(()) } else { Err(unknown_uid_error()) }
}
