//! Verifies links: signature, lifetime, revocation and use limits.

use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::rotation::MIN_POLL_INTERVAL;
use crate::{
    Result, boxed_future,
    links::{CountedLimit, LinkAction, LinkClaims, Links, ValidLink},
};

impl Links {
    /// Checks the signature and the lifetime of a link. Fails with `InvalidSignature` or
    /// `LinkExpired`.
    #[boxed_future]
    pub async fn verify(&self, claims: &LinkClaims<'_>, signature: &str) -> Result<ValidLink> {
        if !self.keys.contains_key_of(signature) {
            // Another node may have signed the link with a key that this node has not read yet.
            self.reload_keys(MIN_POLL_INTERVAL).await?;
        }
        Ok(self.keys.check(claims, signature, OffsetDateTime::now_utc())?)
    }

    /// Returns whether links to `uid` that were issued at `issued`, in seconds since the Unix
    /// epoch, are revoked.
    #[boxed_future]
    pub async fn is_revoked(&self, uid: Uid, action: LinkAction, issued: i64) -> Result<bool> {
        Ok(issued < self.db.links_valid_from(uid, action == LinkAction::Download).await?)
    }

    /// Returns whether a link has no uses left.
    #[boxed_future]
    pub async fn is_used_up(&self, uses: &CountedLimit) -> Result<bool> {
        Ok(self.db.link_uses(&uses.id).await? >= uses.max)
    }

    /// Counts one use of a link that expires at `end`, in seconds since the Unix epoch. Returns
    /// `false`, and counts nothing, if the link has no uses left.
    #[boxed_future]
    pub async fn count_use(&self, uses: &CountedLimit, end: i64) -> Result<bool> {
        Ok(self.db.count_link_use(&uses.id, uses.max, end.saturating_mul(1000)).await?)
    }
}
