//! Signed links: keys, claims, constraints and cursors.

pub(crate) mod constraints;
pub(crate) mod cursor;
mod link;
pub(crate) mod rotation;
pub(crate) mod signed_urls;

pub use link::{
    CountedLimit, LinkAction, LinkClaims, LinkConstraints, LinkError, LinkKey, LinkKeys, LinkPeriod,
    expires_at_secs, format_date, issued_at_secs,
};
