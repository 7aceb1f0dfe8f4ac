//! Basic types that the crates of osproxy share. No I/O.

pub mod content_type;
mod error_chain;
pub mod scope;
pub mod secret;
pub mod tenant;
pub mod uid;

pub use error_chain::error_chain;
