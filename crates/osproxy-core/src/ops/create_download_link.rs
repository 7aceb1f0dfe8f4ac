//! Look up the files for download links.

use std::sync::Arc;

use osproxy_meta::StoredFile;
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::{Tenant, check_expire};
use crate::{App, Result, links::LinkPeriod};

/// Files for which download links can be created.
#[derive(Debug)]
pub struct LinkableFiles {
    /// The complete files, in the order of the uids.
    pub files: Vec<Arc<StoredFile>>,
    /// When the links are valid.
    pub period: LinkPeriod,
}

/// Returns the complete files of a tenant among `uids`, for links that are valid for at least
/// `expire` seconds. Omits unknown uids, files of other tenants, and incomplete files.
pub async fn create_download_link(
    app: &App,
    tenant: &Tenant,
    uids: &[Uid],
    expire: i64,
) -> Result<LinkableFiles> {
    check_expire(app, expire)?;
    let mut files = app.meta.stored_files(uids).await?;
    files.retain(|file| file.tenant == *tenant);
    let period = LinkPeriod::rounded(OffsetDateTime::now_utc(), expire, app.limits.link_round_secs);
    Ok(LinkableFiles { files, period })
}
