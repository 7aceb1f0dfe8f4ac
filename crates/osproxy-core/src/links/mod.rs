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
