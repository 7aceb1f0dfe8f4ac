//! Basic types that the crates of osproxy share. No I/O.

pub mod content_type;
mod error_chain;
pub mod scope;
pub mod secret;
pub mod tenant;
pub mod timestamp;
pub mod uid;

/// Attribute of an `async fn` that other crates await. It makes the function return a boxed future,
/// which is compiled once. Without the attribute, every crate that awaits the function compiles the
/// function again, with all functions that the function awaits. See `docs/adr/0031-build-time.md`.
pub use async_recursion::async_recursion as boxed_future;
pub use error_chain::error_chain;
