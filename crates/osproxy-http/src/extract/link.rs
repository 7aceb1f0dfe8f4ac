//! Verification of signed links, for all versions of the API.

use std::sync::Arc;

use axum::http::request::Parts;
use osproxy_api::ErrorCode;
use osproxy_cluster::Forwarder;
use osproxy_core::{
    Error, Result,
    links::{LinkClaims, Links, ValidLink, address_error},
};
use osproxy_types::uid::Uid;

use crate::{
    extract::auth::client_address,
    forward::{self, RequestSource},
};

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
    ) -> Result<ValidLink> {
        let link = self.links.verify(claims, signature).await?;
        if self.links.is_revoked(uid, claims.action, link.issued_at).await? {
            return Err(Error::new(ErrorCode::LinkRevoked, "this link was revoked; request a new link"));
        }
        // The node that forwarded a request has already checked the constraints.
        let constraints = &link.constraints;
        if !constraints.is_empty()
            && forward::request_source(&self.forwarder, request)? == RequestSource::Client
        {
            if client_address(request).is_none_or(|client| !constraints.allows_ip(client)) {
                return Err(address_error());
            }
            if let Some(grant) = constraints.grant {
                self.links.check_grant(Uid::from_db(grant)).await?;
            }
            if let Some(uses) = &constraints.uses
                && self.links.is_used_up(uses).await?
            {
                return Err(used_up_error());
            }
        }
        Ok(link)
    }

    /// Counts one use of a link. Call this just before sending the content. Fails with `LinkUsedUp`
    /// if the link has no uses left; the content must then not be sent.
    pub(crate) async fn count_use(&self, link: &ValidLink) -> Result<()> {
        match &link.constraints.uses {
            Some(uses) if !self.links.count_use(uses, link.expires_at).await? => Err(used_up_error()),
            _ => Ok(()),
        }
    }
}

fn used_up_error() -> Error {
    Error::new(ErrorCode::LinkUsedUp, "this link has no uses left")
}
