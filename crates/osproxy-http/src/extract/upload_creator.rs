//! The caller of a request that creates uploads: by the link of an upload grant, or by API key.

use std::sync::Arc;

use axum::{
    extract::{FromRef, FromRequestParts},
    http::request::Parts,
};
use osproxy_core::{
    Authenticator, Caller, GRANT_PARAMETERS, Result,
    links::{LinkAction, LinkClaims, Links},
};
use osproxy_types::scope::Scope;

use super::auth::{authenticate, client_address};
use crate::{
    respond::error::{HandlerResult, Rejection},
    state::HttpState,
    v1::{path, query::Query},
};

/// Extracts the caller before the handler runs. If the request has any parameter of the link of an
/// upload grant, the API key is ignored.
pub(crate) struct UploadCreator(pub(crate) Caller);

impl FromRequestParts<HttpState> for UploadCreator {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> HandlerResult<Self> {
        if has_grant(parts) {
            return Ok(Self(verify_grant(&Arc::<Links>::from_ref(state), parts).await?));
        }
        let caller = authenticate(&Arc::<Authenticator>::from_ref(state), parts).await?;
        caller.require_scope(Scope::Upload)?;
        Ok(Self(caller))
    }
}

/// Whether a request has any parameter of the link of an upload grant.
fn has_grant(request: &Parts) -> bool {
    let query = request.uri.query().unwrap_or_default().as_bytes();
    form_urlencoded::parse(query).any(|(name, _)| GRANT_PARAMETERS.contains(&&*name))
}

async fn verify_grant(links: &Links, request: &Parts) -> Result<Caller> {
    let query = Query::parse(request.uri.query(), &GRANT_PARAMETERS)?;
    let [id_name, date_name, expire_name, signature_name] = GRANT_PARAMETERS;
    let id = query.required(id_name)?;
    let claims = LinkClaims {
        action: LinkAction::CreateUploads,
        uid: id,
        date: query.required(date_name)?,
        expire: query.required(expire_name)?,
        action_params: &[],
    };
    let signature = query.required(signature_name)?;
    links.verify_grant(path::parse_grant_id(id)?, &claims, signature, client_address(request)).await
}
