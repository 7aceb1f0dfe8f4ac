//! Entry points to the parsers of client input, for the fuzz targets in `fuzz/`. The service itself
//! does not use them.

use axum::body::Body;
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use osproxy_core::{
    Result, UPLOAD_PARAMETERS,
    links::{LinkAction, LinkConstraints, LinkError, LinkKeys, LinkPeriod},
    upload_query,
};
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use crate::{
    v0,
    v1::{self, upload_link},
};

pub use crate::{
    extract::{
        forwarded::addresses as forwarded,
        range::{RequestedRange, parse as range},
    },
    resumable::parsers as resumable,
    tus::parsers as tus,
    v1::digest::from_headers as digests,
};

/// The parameters of a link: uid, date, expire and signature.
pub type LinkParameters = [String; 4];

/// Parses the query of a link of API v0.
pub fn query_v0(query: &str) -> LinkParameters {
    let query = v0::query::LenientQuery::parse(Some(query));
    ["uid", "date", "expire", "signature"].map(|name| query.get(name).to_owned())
}

/// Parses the query of an upload link of API v1. `uid` is the uid in the path of the link. Returns
/// `None` if a parameter is missing, repeated or unknown.
pub fn query_v1(uid: &str, query: &str) -> Option<LinkParameters> {
    let query = v1::query::Query::parse(Some(query), &UPLOAD_PARAMETERS).ok()?;
    let (claims, signature) = upload_link::claims(uid, &query).ok()?;
    Some([claims.uid, claims.date, claims.expire, signature].map(str::to_owned))
}

/// Verifies a link of API v0. `extra_names` lists the additional signed parameters of links for
/// `action`.
pub fn verify_v0(
    links: &LinkKeys,
    action: LinkAction,
    query: &str,
    extra_names: &[&str],
    now: OffsetDateTime,
) -> Result<LinkConstraints, LinkError> {
    let query = v0::query::LenientQuery::parse(Some(query));
    let extra: Vec<_> = extra_names.iter().map(|name| query.get(name)).collect();
    links.verify(&query.claims(action, &extra), query.get("signature"), now)
}

/// Verifies an upload link of API v1. Returns `None` if its query cannot be parsed.
pub fn verify_v1(
    links: &LinkKeys,
    uid: &str,
    query: &str,
    now: OffsetDateTime,
) -> Option<Result<LinkConstraints, LinkError>> {
    let query = v1::query::Query::parse(Some(query), &UPLOAD_PARAMETERS).ok()?;
    let (claims, signature) = upload_link::claims(uid, &query).ok()?;
    Some(links.verify(&claims, signature, now))
}

/// Returns the signed query of a link of API v0.
pub fn sign_v0(
    links: &LinkKeys,
    action: LinkAction,
    uid: Uid,
    period: LinkPeriod,
    extra: &[(&str, &str)],
    constraints: &LinkConstraints,
) -> String {
    v0::query::signed_query(links, action, uid, period, extra, constraints)
}

/// Returns the signed query of an upload link of API v1.
pub fn sign_v1(links: &LinkKeys, uid: Uid, period: LinkPeriod, constraints: &LinkConstraints) -> String {
    upload_query(links, uid, period, constraints)
}

/// Whether API v0 parses a body of this type as a form.
pub fn is_form(content_type: &str) -> bool {
    v0::form::is_form(content_type)
}

/// Returns the content of the field `file` of a form. `chunks` is the body of the form. Fails if
/// the form is malformed or too large.
pub async fn form(content_type: &str, chunks: Vec<Bytes>) -> Result<Vec<u8>> {
    let chunks = stream::iter(chunks.into_iter().map(Ok::<_, std::convert::Infallible>));
    let file = v0::form::content_stream(content_type, Body::from_stream(chunks).into_data_stream()).await?;
    file.try_fold(Vec::new(), |mut content, chunk| async move {
        content.extend_from_slice(&chunk);
        Ok(content)
    })
    .await
}
