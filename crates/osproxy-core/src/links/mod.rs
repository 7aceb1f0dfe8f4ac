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
pub use verify::address_error;

use osproxy_cluster::Forwarder;
use osproxy_meta::AccessDb;

use crate::auth::upload_grant::GrantCache;

/// Signs and verifies links.
pub struct Links {
    /// The keys that sign and verify links.
    pub keys: LinkKeys,
    rotation: rotation::KeyRotation,
    db: AccessDb,
    pub(crate) grants: GrantCache,
    forwarder: Forwarder,
}

impl Links {
    pub(crate) fn new(
        keys: LinkKeys,
        rotation: rotation::KeyRotation,
        db: AccessDb,
        forwarder: Forwarder,
    ) -> Self {
        Self { keys, rotation, grants: GrantCache::new(db.clone()), db, forwarder }
    }
}
