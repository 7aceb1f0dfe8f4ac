//! Verifies links: signature, lifetime, revocation and use limits.

use std::net::IpAddr;

use osproxy_api::ErrorCode;
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::rotation::MIN_POLL_INTERVAL;
use crate::{
    Caller, Error, Result, boxed_future,
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

    /// Fails with `LinkRevoked` if the upload grant of a link is revoked.
    #[boxed_future]
    pub async fn check_grant(&self, grant: Uid) -> Result<()> {
        self.grants.get(grant).await.map(drop)
    }

    /// Verifies the link of an upload grant, and returns the caller that has it. Fails with
    /// `InvalidSignature`, `LinkExpired`, `LinkRevoked`, or, for a client with an address that the
    /// grant does not allow, `PermissionDenied`.
    #[boxed_future]
    pub async fn verify_grant(
        &self,
        id: Uid,
        claims: &LinkClaims<'_>,
        signature: &str,
        client: Option<IpAddr>,
    ) -> Result<Caller> {
        self.verify(claims, signature).await?;
        let grant = self.grants.get(id).await?;
        let networks = &grant.terms.networks;
        let allows = |client: IpAddr| networks.iter().any(|network| network.contains(&client));
        if networks.is_empty() || client.is_some_and(allows) {
            return Ok(Caller::of_grant(grant));
        }
        Err(address_error())
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

/// The error for a client whose address a link does not allow.
pub fn address_error() -> Error {
    Error::new(ErrorCode::PermissionDenied, "this link must not be used from this address")
}
