//! osproxy: a file-storage service between applications and object stores.
//!
//! This crate is the program: the command line, the configuration, telemetry, and the wiring of the
//! other crates. docs/ARCHITECTURE.md describes all crates.

pub mod cli;
pub mod config;
pub mod telemetry;
pub mod version;
pub mod wiring;

/// Compiles and runs the examples of the guide to task handlers as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/task-handlers.md")]
mod guides {}

/// Compiles and runs the example of the guide to processing as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/processing.md")]
mod processing_guide {}
