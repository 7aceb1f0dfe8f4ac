//! osproxy: a file-storage service between applications and object stores.
//!
//! Modules import each other in one direction: `main` → `cli` → {`grpc`, `http`} → `ops` → `tasks`
//! → `app` → {`meta`, `coord`, storage, `cluster`, `link`, `tenant`, `uid`} → `metrics`.
//! docs/ARCHITECTURE.md has the map.

pub mod cli;
pub mod config;
pub mod telemetry;
pub mod version;
pub mod wiring;

/// Compiles and runs the examples of the guides as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/task-handlers.md")]
mod guides {}
