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

use std::sync::Arc;

use osproxy_cluster::Forwarder;
use osproxy_meta::Meta;

/// Signs and verifies links.
pub struct Links {
    /// The keys of the links.
    pub keys: LinkKeys,
    pub(crate) rotation: rotation::KeyRotation,
    pub(crate) meta: Arc<Meta>,
    pub(crate) forwarder: Forwarder,
}
