use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::Moment;

/// How much there is of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// When it was counted: an answer may be some seconds old.
    #[schema(value_type = Moment)]
    pub counted_at: String,
    /// Files by their state. A state that no file is in is left out.
    pub files: BTreeMap<String, u64>,
    /// Contents that are stored.
    pub blobs: u64,
    /// Bytes that these have together.
    pub bytes_stored: u64,
    /// Bytes that would be stored besides if files of the same content did not share it.
    pub bytes_saved: u64,
    /// Tasks by their state. A state that no task is in is left out.
    pub tasks: BTreeMap<String, u64>,
}
