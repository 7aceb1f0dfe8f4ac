//! Verification of signed links, for all versions of the API.

use std::sync::Arc;

use axum::http::request::Parts;
use osproxy_api::ErrorCode;
use osproxy_cluster::Forwarder;
use osproxy_core::{
    Error, Result,
    links::{self, LinkClaims, LinkConstraints, Links},
};
use osproxy_types::uid::Uid;

use crate::{
    extract::auth::client_address,
    forward::{self, RequestSource},
};

/// A valid link that this client may use.
#[derive(Debug)]
pub(crate) struct VerifiedLink {
    /// Constraints that the signature of the link covers.
    pub(crate) constraints: LinkConstraints,
    /// Expiry of the link, in seconds since the Unix epoch.
    pub(crate) expires_at: i64,
}

/// Verifies links.
#[derive(Clone)]
pub(crate) struct LinkVerifier {
    links: Arc<Links>,
    forwarder: Forwarder,
}

impl LinkVerifier {
    pub(crate) fn new(links: Arc<Links>, forwarder: Forwarder) -> Self {
        Self { links, forwarder }
    }

    /// Verifies that a link to `uid` has a valid signature, is not expired, revoked or used up, and
    /// allows the address of the client. Does not count a use; see [`count_use`](Self::count_use).
    pub(crate) async fn verify(
        &self,
        request: &Parts,
        uid: Uid,
        claims: &LinkClaims<'_>,
        signature: &str,
    ) -> Result<VerifiedLink> {
        let constraints = self.links.verify(claims, signature).await?;
        let (issued_at, expires_at) =
            (links::issued_at_secs(claims.date), links::expires_at_secs(claims.date, claims.expire));
        let (Some(issued_at), Some(expires_at)) = (issued_at, expires_at) else {
            return Err(Error::internal("a link with a valid signature has an invalid date"));
        };
        if self.links.is_revoked(uid, claims.action, issued_at).await? {
            return Err(Error::new(ErrorCode::LinkRevoked, "this link was revoked; request a new link"));
        }
        // The node that forwarded a request has already checked the constraints.
        if !constraints.is_empty()
            && forward::request_source(&self.forwarder, request)? == RequestSource::Client
        {
            if client_address(request).is_none_or(|client| !constraints.allows_ip(client)) {
                let message = "this link must not be used from this address";
                return Err(Error::new(ErrorCode::PermissionDenied, message));
            }
            if let Some(uses) = &constraints.uses
                && self.links.is_used_up(uses).await?
            {
                return Err(used_up_error());
            }
        }
        Ok(VerifiedLink { constraints, expires_at })
    }

    /// Counts one use of a link. Call this just before sending the content. Fails with `LinkUsedUp`
    /// if the link has no uses left; the content must then not be sent.
    pub(crate) async fn count_use(&self, link: &VerifiedLink) -> Result<()> {
        match &link.constraints.uses {
            Some(uses) if !self.links.count_use(uses, link.expires_at).await? => Err(used_up_error()),
            _ => Ok(()),
        }
    }
}

fn used_up_error() -> Error {
    Error::new(ErrorCode::LinkUsedUp, "this link has no uses left")
}
