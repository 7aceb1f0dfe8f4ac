//! Signed links: keys, claims, constraints and cursors.

pub(crate) mod build_urls;
pub(crate) mod constraints;
pub(crate) mod cursor;
pub(crate) mod rotation;
mod signature;
mod verify;

pub use signature::{
    CountedLimit, LinkAction, LinkClaims, LinkConstraints, LinkError, LinkKey, LinkKeys, LinkPeriod,
    ValidLink, expires_at, format_date, parse_date,
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
