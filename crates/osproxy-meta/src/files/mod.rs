//! Files: creation, deletion, changes and listings, and the cache of stored files.

pub(crate) mod cache;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod listing;
pub(crate) mod rows;
pub(crate) mod stored;
pub(crate) mod update;

use std::sync::Arc;

use crate::db::{database::Database, entities::file};

pub use file::State as FileState;

/// Handle for files: creation, deletion, changes and listings, and the cache of stored files.
#[derive(Clone)]
pub struct FileDb {
    pub(crate) db: Arc<Database>,
}
