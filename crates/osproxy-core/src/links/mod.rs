//! Signed links: keys, claims, constraints and cursors.

pub(crate) mod build_urls;
pub(crate) mod constraints;
pub(crate) mod cursor;
pub(crate) mod rotation;
mod signature;
mod verify;

pub use signature::{
    CountedLimit, LinkAction, LinkClaims, LinkConstraints, LinkError, LinkKey, LinkKeys, LinkPeriod,
    expires_at_secs, format_date, issued_at_secs,
};

use osproxy_cluster::Forwarder;
use osproxy_meta::AccessDb;

/// Signs and verifies links.
pub struct Links {
    /// The keys that sign and verify links.
    pub keys: LinkKeys,
    pub(crate) rotation: rotation::KeyRotation,
    pub(crate) db: AccessDb,
    pub(crate) forwarder: Forwarder,
}
