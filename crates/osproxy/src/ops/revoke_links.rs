//! Make the links of a file worthless.

use super::{Tenant, unknown_uid};
use crate::{Result, app::App, uid::Uid};

/// Makes every link to a file of a tenant worthless that was issued until now, those to send its content as well as those
/// to read it. Links that are issued afterwards are good. Other nodes know it as soon as they hear of it, and after
/// `database.cache_seconds` at the latest.
pub async fn revoke_links(app: &App, tenant: &Tenant, uid: Uid) -> Result<()> {
    let is_known = app.meta.revoke_links(tenant.clone(), uid).await?;
    if is_known { Ok(()) } else { Err(unknown_uid()) }
}
