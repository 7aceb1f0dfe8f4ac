use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::Moment;

/// Counts of files, content and tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// When the counts were taken. A response may be some seconds old.
    #[schema(value_type = Moment)]
    pub counted_at: String,
    /// Number of files by state. States without files are omitted.
    pub files: BTreeMap<String, u64>,
    /// Number of stored blobs.
    pub blobs: u64,
    /// Total size of the stored blobs in bytes.
    pub bytes_stored: u64,
    /// Bytes saved by deduplication: files with the same content share one blob.
    pub bytes_saved: u64,
    /// Number of tasks by state. States without tasks are omitted.
    pub tasks: BTreeMap<String, u64>,
}
