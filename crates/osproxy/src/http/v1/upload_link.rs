//! Links that let whoever has them send the content of one file. What is signed is the same as in API v0: an upload that
//! was begun over one version can be continued over the other.

use axum::http::request::Parts;
use osproxy_api::{
    ErrorCode,
    v1::{PREFIX, UploadLinks},
};
use time::OffsetDateTime;

use super::{path, query::Query};
use crate::{
    Error, Result,
    app::App,
    http::link,
    link::{self as signing, Action, Claims, LinkError, LinkKeys, Terms},
    uid::Uid,
};

/// The parameters of such a link.
pub(in crate::http) const PARAMETERS: [&str; 3] = ["date", "expire", "signature"];

/// The uid of a link that allows to send its content now, and its terms.
pub(super) async fn verified(app: &App, uid: &str, request: &Parts) -> Result<(Uid, Terms)> {
    let query = Query::parse(request.uri.query(), &PARAMETERS)?;
    let (claims, signature) = claims(uid, &query)?;
    let Ok(known) = path::parse_uid(uid) else {
        return Err(Error::new(ErrorCode::InvalidSignature, LinkError::Signature.to_string()));
    };
    let terms = link::verify(app, request, known, &claims, signature).await?;
    Ok((known, terms))
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

/// The links of an upload, which hold `expire` seconds from `date` on.
pub(super) fn links(
    app: &App,
    uid: Uid,
    (date, expire): (OffsetDateTime, i64),
    terms: &Terms,
) -> UploadLinks {
    let query = signed(&app.links, uid, (date, expire), terms);
    let url = |what: &str| format!("{PREFIX}/uploads/{uid}{what}?{query}");
    UploadLinks {
        content: url("/content"),
        part: url("/parts/{number}"),
        state: url(""),
        complete: url("/complete"),
    }
}

/// The link that takes the answer to the challenge of an upload.
pub(super) fn proof(app: &App, uid: Uid, (date, expire): (OffsetDateTime, i64), terms: &Terms) -> String {
    format!("{PREFIX}/uploads/{uid}/proof?{}", signed(&app.links, uid, (date, expire), terms))
}

/// What lets whoever has it send the content of `uid`.
pub(in crate::http) fn signed(
    links: &LinkKeys,
    uid: Uid,
    (date, expire): (OffsetDateTime, i64),
    terms: &Terms,
) -> String {
    let (uid, date, expire) = (uid.to_string(), signing::date(date), expire.to_string());
    let claims = Claims { action: Action::Upload, uid: &uid, date: &date, expire: &expire, extra: &[] };
    let signature = links.sign(&claims, terms);
    let [date_name, expire_name, signature_name] = PARAMETERS;
    form_urlencoded::Serializer::new(String::new())
        .append_pair(date_name, &date)
        .append_pair(expire_name, &expire)
        .append_pair(signature_name, &signature)
        .finish()
}
