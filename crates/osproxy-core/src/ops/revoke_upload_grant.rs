//! Revoke an upload grant.

use osproxy_types::uid::Uid;

use super::{Tenant, UploadOps, describe_upload_grant::unknown_grant_error};
use crate::{Result, boxed_future};

/// Revokes a grant of a tenant: from now on it allows no new uploads. Other nodes accept the links of
/// its uploads for at most four seconds more. Running transfers are not ended. Has no effect on a
/// grant that is already revoked. Fails with `GrantNotFound`.
#[boxed_future]
pub async fn revoke_upload_grant(uploads: &UploadOps, tenant: &Tenant, id: Uid) -> Result<()> {
    let is_revoked = uploads.meta.access.revoke_grant(tenant.clone(), id).await?;
    uploads.links.grants.forget(id);
    if is_revoked { Ok(()) } else { Err(unknown_grant_error()) }
}
