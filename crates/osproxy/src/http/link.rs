//! Signed links, as every version of the API takes them.

use axum::http::{Method, request::Parts};
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

/// Whether a link to `uid` says what was signed, holds now, and may be used by who sends the request. Gives the terms that
/// were signed with it.
pub(super) async fn verify(
    app: &App,
    request: &Parts,
    uid: Uid,
    claims: &Claims<'_>,
    signature: &str,
) -> Result<Terms> {
    let verdict = app.verify_link(claims, signature).await?;
    let terms = verdict.map_err(|error| {
        let code = match error {
            LinkError::Signature => ErrorCode::InvalidSignature,
            LinkError::Expired => ErrorCode::LinkExpired,
        };
        Error::new(code, error.to_string())
    })?;
    let (issued, end) = (link::issued(claims.date), link::end(claims.date, claims.expire));
    let (Some(issued), Some(end)) = (issued, end) else {
        return Err(Error::internal("a signed link has no date"));
    };
    if app.is_revoked(uid, claims.action, issued).await? {
        return Err(Error::new(ErrorCode::LinkRevoked, "the links of this file were revoked"));
    }
    // Of a request that another node hands on that one has seen to this.
    if !terms.is_empty() && forward::origin(app, request)? == Origin::Client {
        if client_address(request).is_none_or(|client| !terms.allow(client)) {
            let message = "the link is not for clients at this address";
            return Err(Error::new(ErrorCode::PermissionDenied, message));
        }
        if let Some(uses) = &terms.uses
            && request.method == Method::GET
            && !app.use_link(uses, end).await?
        {
            return Err(Error::new(ErrorCode::LinkUsedUp, "the link was used as often as it may be"));
        }
    }
    Ok(terms)
}
