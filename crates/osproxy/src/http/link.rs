//! Signed links, as every version of the API takes them.

use axum::http::request::Parts;
use osproxy_api::ErrorCode;

use super::{
    auth::client_address,
    forward::{self, Origin},
};
use crate::{
    Error, Result,
    app::App,
    link::{self, Claims, LinkError, Terms},
    uid::Uid,
};

/// A link that holds, and that its sender may use.
#[derive(Debug)]
pub(super) struct VerifiedLink {
    /// The constraints that were signed with it.
    pub(super) terms: Terms,
    /// When it ends, in seconds since the Unix epoch.
    pub(super) ends_at: i64,
}

/// Verifies that a link to `uid` is signed, holds now, is not revoked or used up, and may be used by the client at this address.
pub(super) async fn verify(
    app: &App,
    request: &Parts,
    uid: Uid,
    claims: &Claims<'_>,
    signature: &str,
) -> Result<VerifiedLink> {
    let verdict = app.verify_link(claims, signature).await?;
    let terms = verdict.map_err(|error| {
        let code = match error {
            LinkError::Signature => ErrorCode::InvalidSignature,
            LinkError::Expired => ErrorCode::LinkExpired,
        };
        Error::new(code, error.to_string())
    })?;
    let (issued, end) = (link::issued(claims.date), link::end(claims.date, claims.expire));
    let (Some(issued), Some(ends_at)) = (issued, end) else {
        return Err(Error::internal("a signed link has no date"));
    };
    if app.is_revoked(uid, claims.action, issued).await? {
        return Err(Error::new(ErrorCode::LinkRevoked, "the links of this file were revoked"));
    }
    // A request that another node forwards was checked there.
    if !terms.is_empty() && forward::origin(app, request)? == Origin::Client {
        if client_address(request).is_none_or(|client| !terms.allow(client)) {
            let message = "the link is not for clients at this address";
            return Err(Error::new(ErrorCode::PermissionDenied, message));
        }
        if let Some(uses) = &terms.uses
            && app.is_used_up(uses).await?
        {
            return Err(used_up());
        }
    }
    Ok(VerifiedLink { terms, ends_at })
}

/// Counts one use of a link by which content is about to be sent. Fails if the link was used up meanwhile; then the content must
/// not be sent.
pub(super) async fn count_use(app: &App, link: &VerifiedLink) -> Result<()> {
    match &link.terms.uses {
        Some(uses) if !app.use_link(uses, link.ends_at).await? => Err(used_up()),
        _ => Ok(()),
    }
}

fn used_up() -> Error {
    Error::new(ErrorCode::LinkUsedUp, "the link was used as often as it may be")
}
