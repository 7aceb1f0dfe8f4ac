//! List upload grants, page by page.

use osproxy_types::uid::Uid;

use super::{Tenant, UploadOps};
use crate::{Result, auth::UploadGrant, boxed_future};

/// A page of upload grants.
#[derive(Debug)]
pub struct GrantPage {
    /// The grants, newest first.
    pub grants: Vec<UploadGrant>,
    /// Id of the last grant on this page; `None` if this is the last page.
    pub next: Option<Uid>,
}

/// Returns up to `limit` grants of a tenant, newest first; with `before`, those created before that
/// grant. Includes expired and revoked grants, until 30 days after their expiry.
#[boxed_future]
pub async fn list_upload_grants(
    uploads: &UploadOps,
    tenant: &Tenant,
    before: Option<Uid>,
    limit: u64,
) -> Result<GrantPage> {
    // Read one grant more than `limit`, to see whether there is another page.
    let mut records = uploads.meta.access.grants(tenant, before, limit + 1).await?;
    let has_more = records.len() as u64 > limit;
    if has_more {
        records.pop();
    }
    let next = records.last().filter(|_| has_more).map(|record| record.id);
    let grants = records.into_iter().map(UploadGrant::from_record).collect::<Result<_>>()?;
    Ok(GrantPage { grants, next })
}
