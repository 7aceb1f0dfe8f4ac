//! List files, page by page.

pub use crate::meta::{FileFilter, FilePosition, FileRecord, MAX_PREFIX};
pub use osproxy_storage::Category;

use super::Tenant;
use crate::{Error, Result, app::App};

/// Some files, and how to get those behind them.
#[derive(Debug)]
pub struct FilePage {
    /// The files, in their order.
    pub files: Vec<FileRecord>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<FilePosition>,
}

/// Up to `limit` files of a tenant behind a position, in an order that stays.
pub async fn list_files(
    app: &App,
    tenant: &Tenant,
    filter: &FileFilter,
    after: Option<&FilePosition>,
    limit: u64,
) -> Result<FilePage> {
    if let Some(prefix) = &filter.prefix
        && !(1..=MAX_PREFIX).contains(&prefix.len())
    {
        let message = format!("`prefix` must have 1 to {MAX_PREFIX} bytes");
        return Err(Error::invalid(message).with_field("prefix"));
    }
    // One more, to see whether there are more.
    let mut files = app.meta.list_files(tenant, filter, after, limit + 1).await?;
    let has_more = files.len() as u64 > limit;
    if has_more {
        files.pop();
    }
    let next = files.last().filter(|_| has_more).map(FilePosition::behind);
    Ok(FilePage { files, next })
}
