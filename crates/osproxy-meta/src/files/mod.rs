//! Files: their creation, deletion, changes and listings, and the cache of complete files.

pub(crate) mod cache;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod listing;
pub(crate) mod rows;
pub(crate) mod stored;
pub(crate) mod update;

use crate::db::entities::file;

pub use file::State as FileState;
