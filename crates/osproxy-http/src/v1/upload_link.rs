//! Upload links. The holder of a link may send the content of one file. The signature covers
//! the same values as in API v0, so an upload that was started through one version can be continued
//! through the other.

use axum::http::request::Parts;
use osproxy_api::ErrorCode;
use osproxy_core::{
    Error, Result, UPLOAD_PARAMETERS,
    links::{LinkAction, LinkClaims, LinkConstraints, LinkError},
};
use osproxy_types::uid::Uid;

use super::{path, query::Query};
use crate::extract::link::LinkVerifier;

/// Whether a request has any parameter of an upload link.
pub(crate) fn has_parameters(request: &Parts) -> bool {
    is_signed(request.uri.query())
}

/// Whether the query of a URL has any parameter of an upload link.
pub(crate) fn is_signed(query: Option<&str>) -> bool {
    let query = query.unwrap_or_default().as_bytes();
    form_urlencoded::parse(query).any(|(name, _)| UPLOAD_PARAMETERS.contains(&&*name))
}

/// Verifies an upload link, and returns its uid and constraints.
pub(crate) async fn verify(
    verifier: &LinkVerifier,
    uid: &str,
    request: &Parts,
) -> Result<(Uid, LinkConstraints)> {
    verify_query(verifier, uid, request.uri.query(), request).await
}

/// Like [`verify`], for a link with this `query` that a request names.
pub(crate) async fn verify_query(
    verifier: &LinkVerifier,
    uid: &str,
    query: Option<&str>,
    request: &Parts,
) -> Result<(Uid, LinkConstraints)> {
    let query = Query::parse(query, &UPLOAD_PARAMETERS)?;
    let (claims, signature) = claims(uid, &query)?;
    let Ok(parsed_uid) = path::parse_uid(uid) else {
        return Err(Error::new(ErrorCode::InvalidSignature, LinkError::Signature.to_string()));
    };
    let link = verifier.verify(request, parsed_uid, &claims, signature).await?;
    Ok((parsed_uid, link.constraints))
}

/// Returns the claims that the signature of a link covers, and the signature.
pub(crate) fn claims<'a>(uid: &'a str, query: &'a Query<'_>) -> Result<(LinkClaims<'a>, &'a str)> {
    let claims = LinkClaims {
        action: LinkAction::Upload,
        uid,
        date: query.required("date")?,
        expire: query.required("expire")?,
        action_params: &[],
    };
    Ok((claims, query.required("signature")?))
}
