//! Queries of administration commands: statistics, history, integrity checks.

pub(crate) mod history;
pub(crate) mod integrity;
pub(crate) mod recorded_objects;
pub(crate) mod stats;
