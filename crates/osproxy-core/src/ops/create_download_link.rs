//! Look up the files for download links.

use std::sync::Arc;

use osproxy_meta::StoredFile;
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::{FileOps, Tenant, check_expire};
use crate::{Result, boxed_future, links::LinkPeriod};

/// Files for which download links can be created.
#[derive(Debug)]
pub struct LinkableFiles {
    /// The complete files, in the order of the requested uids.
    pub files: Vec<Arc<StoredFile>>,
    /// Validity period of the links.
    pub period: LinkPeriod,
}

/// Returns the complete files of a tenant among `uids`, for links that are valid for at least
/// `expire` seconds. Omits unknown uids, files of other tenants, and incomplete files.
#[boxed_future]
pub async fn create_download_link(
    files: &FileOps,
    tenant: &Tenant,
    uids: &[Uid],
    expire: i64,
) -> Result<LinkableFiles> {
    check_expire(&files.limits, expire)?;
    let mut found = files.meta.files.stored_among(uids).await?;
    found.retain(|file| file.tenant == *tenant);
    let period =
        LinkPeriod::rounded(OffsetDateTime::now_utc(), expire, files.limits.link_rounding_window_secs);
    Ok(LinkableFiles { files: found, period })
}
