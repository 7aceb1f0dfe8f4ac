//! Version of this build.

use osproxy_core::settings::BuildInfo;

/// Version number, as in the node registry and metrics.
pub const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// Commit of the build, with `-dirty` appended if tracked files had uncommitted changes. Empty if
/// unknown.
pub const COMMIT: &str = env!("OSPROXY_COMMIT");

/// Version number and commit, for people: `1.0.0 (1c29f64abcde)`.
pub const FULL: &str = env!("OSPROXY_VERSION");

/// The number, the commit, and the full version.
pub const BUILD: BuildInfo = BuildInfo { version: NUMBER, commit: COMMIT, full: FULL };
