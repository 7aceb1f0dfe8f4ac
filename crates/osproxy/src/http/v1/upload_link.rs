//! Links that let whoever has them send the content of one file. What is signed is the same as in API v0: an upload that
//! was begun over one version can be continued over the other.

use axum::http::request::Parts;
use osproxy_api::ErrorCode;

use super::{path, query::Query};
use crate::{
    Error, Result,
    app::{App, UPLOAD_PARAMETERS},
    http::link,
    link::{Action, Claims, LinkError, Terms},
    uid::Uid,
};

/// The uid of a link that allows to send its content now, and its terms.
pub(super) async fn verified(app: &App, uid: &str, request: &Parts) -> Result<(Uid, Terms)> {
    let query = Query::parse(request.uri.query(), &UPLOAD_PARAMETERS)?;
    let (claims, signature) = claims(uid, &query)?;
    let Ok(known) = path::parse_uid(uid) else {
        return Err(Error::new(ErrorCode::InvalidSignature, LinkError::Signature.to_string()));
    };
    let link = link::verify(app, request, known, &claims, signature).await?;
    Ok((known, link.terms))
}

/// What the link to a uid says, and its signature.
pub(in crate::http) fn claims<'a>(uid: &'a str, query: &'a Query<'_>) -> Result<(Claims<'a>, &'a str)> {
    let claims = Claims {
        action: Action::Upload,
        uid,
        date: query.required("date")?,
        expire: query.required("expire")?,
        extra: &[],
    };
    Ok((claims, query.required("signature")?))
}
