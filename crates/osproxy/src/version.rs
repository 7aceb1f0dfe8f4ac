//! Which version this is, for whoever asks.

/// The number alone, as nodes and metrics tell it.
pub const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from; `-dirty` behind it if sources were changed. Empty where that is not known.
pub const COMMIT: &str = env!("OSPROXY_COMMIT");

/// Both, for people: `1.0.0 (1c29f64abcde)`.
pub const FULL: &str = env!("OSPROXY_VERSION");
