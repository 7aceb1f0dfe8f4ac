//! The service without a transport: operations, upload sessions, links, tasks, admission and
//! authentication.

pub mod api_key;
pub mod app;
mod error;
pub mod link;
pub mod metrics;
pub mod ops;
pub mod tasks;

pub use error::{Error, Result};
