//! List files, page by page.

pub use osproxy_meta::{FileFilter, FilePosition, FileRecord, MAX_PREFIX};
pub use osproxy_storage::Category;

use super::{FileOps, Tenant};
use crate::{Error, Result, boxed_future};

/// A page of files.
#[derive(Debug)]
pub struct FilePage {
    /// The files, in order.
    pub files: Vec<FileRecord>,
    /// Position of the next page, if there is one.
    pub next: Option<FilePosition>,
}

/// Returns up to `limit` files of a tenant that match `filter`, in a stable order. The page starts
/// after the position `after`.
#[boxed_future]
pub async fn list_files(
    files: &FileOps,
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
    // Read one file more than `limit`, to see whether there is another page.
    let mut files = files.meta.files.list(tenant, filter, after, limit + 1).await?;
    let has_more = files.len() as u64 > limit;
    if has_more {
        files.pop();
    }
    let next = files.last().filter(|_| has_more).map(FilePosition::after);
    Ok(FilePage { files, next })
}
