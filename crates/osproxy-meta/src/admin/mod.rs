//! Queries of administration commands: statistics, history, integrity checks.

pub(crate) mod history;
pub(crate) mod integrity;
pub(crate) mod keys;
pub(crate) mod recorded_objects;
pub(crate) mod stats;

use std::sync::Arc;

use crate::db::database::Database;

/// Queries of administration commands: statistics, history, integrity checks.
#[derive(Clone)]
pub struct AdminDb {
    pub(crate) db: Arc<Database>,
}
