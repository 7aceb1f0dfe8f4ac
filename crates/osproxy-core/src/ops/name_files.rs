//! Find the buckets and keys of files.

use std::collections::HashMap;

pub use osproxy_meta::{FileRecord, ObjectName};
use osproxy_types::uid::Uid;

use super::FileOps;
use crate::{Result, boxed_future};

/// Returns the buckets and keys of those files that are objects.
#[boxed_future]
pub async fn name_files(files: &FileOps, records: &[FileRecord]) -> Result<HashMap<Uid, ObjectName>> {
    let in_buckets = records.iter().filter(|record| record.bucket_id.is_some());
    Ok(files.meta.objects.names_of(in_buckets.map(|record| record.uid).collect()).await?)
}
