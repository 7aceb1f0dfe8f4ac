//! Find the files that download links are asked for.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{Tenant, check_expire};
use crate::{Result, app::App, link::Period, meta::StoredFile, uid::Uid};

/// Files that may be read from now on.
#[derive(Debug)]
pub struct Readable {
    /// Those that are complete, in the order of the uids.
    pub files: Vec<Arc<StoredFile>>,
    /// When links to them hold.
    pub period: Period,
}

/// The complete files of a tenant among `uids`, for links that hold at least `expire` seconds. What is unknown, another's or not complete
/// is left out.
pub async fn create_download_link(app: &App, tenant: &Tenant, uids: &[Uid], expire: i64) -> Result<Readable> {
    check_expire(app, expire)?;
    let mut files = app.meta.stored_files(uids).await?;
    files.retain(|file| file.tenant == *tenant);
    let period = Period::rounded(OffsetDateTime::now_utc(), expire, app.limits.link_round);
    Ok(Readable { files, period })
}
