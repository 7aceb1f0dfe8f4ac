//! osproxy: a file-storage service between applications and object stores.
//!
//! Modules import each other in one direction: `main` → `cli` → {`grpc`, `http`} → `ops` → `tasks`
//! → `app` → {`meta`, `coord`, storage, `cluster`, `link`, `tenant`, `uid`} → `metrics`.
//! docs/ARCHITECTURE.md has the map.

pub mod api_key;
pub mod app;
pub mod cli;
pub mod config;
mod error;
pub mod grpc;
pub mod http;
pub mod link;
pub mod metrics;
pub mod ops;
pub mod tasks;
pub mod telemetry;
pub mod version;
pub mod wiring;

pub use error::{Error, Result};

/// Compiles and runs the examples of the guides as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/task-handlers.md")]
mod guides {}
