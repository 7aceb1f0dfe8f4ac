//! The database: connections, transactions, dialects, schema.

pub(crate) mod clock;
pub(crate) mod connect;
pub(crate) mod database;
pub(crate) mod database_lock;
pub(crate) mod dialect;
pub(crate) mod entities;
pub(crate) mod error_class;
pub(crate) mod exclusive_lock;
pub(crate) mod instrumented;
pub(crate) mod location;
pub(crate) mod metrics;
pub(crate) mod migrate;
pub(crate) mod migrations;
pub(crate) mod pool;
pub(crate) mod reserve;
pub(crate) mod retry;
pub(crate) mod server_pool;
pub(crate) mod write_batcher;
