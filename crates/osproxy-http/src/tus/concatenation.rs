//! The header `Upload-Concat`, and final uploads.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use osproxy_api::tus::{CONCAT, DEFER_LENGTH, LENGTH, PREFIX};
use osproxy_cluster::Forwarder;
use osproxy_core::{
    Caller, Error, Result,
    links::{LinkPeriod, Links},
    ops::{
        self, UploadOps,
        append_upload::UploadOffset,
        concatenate_uploads::{Concatenation, FinalUpload, MAX_PARTIAL_UPLOADS},
        create_upload::UploadRequest,
    },
};
use osproxy_types::uid::Uid;

use super::{
    headers::{insert, text},
    uploads::insert_offset,
};
use crate::{
    extract::{link::LinkVerifier, public_url},
    forward::{self, RequestSource},
    respond::error::HandlerResult,
    settings::HttpSettings,
    v1::{path, upload_link},
};

/// Role of a new upload.
#[derive(Debug, PartialEq, Eq)]
pub enum Concat<'h> {
    /// A partial upload.
    Partial,
    /// A final upload, made of the partial uploads with these URLs.
    Final(Vec<PartialUrl<'h>>),
}

/// URL of a partial upload.
#[derive(Debug, PartialEq, Eq)]
pub struct PartialUrl<'h> {
    /// Text in the place of the uid.
    pub uid: &'h str,
    query: Option<&'h str>,
}

/// Returns the role of a new upload in a concatenation, if it has one. Fails with `InvalidArgument`
/// if the header is malformed.
pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Concat<'_>>> {
    text(headers, CONCAT)?.map(parse).transpose()
}

/// Parses `partial`, or `final;` and a list of URLs, separated by spaces. The URLs may be absolute
/// or relative.
pub fn parse(header: &str) -> Result<Concat<'_>> {
    if header == "partial" {
        return Ok(Concat::Partial);
    }
    let urls = header.strip_prefix("final;").ok_or_else(|| {
        invalid("`Upload-Concat` must be `partial`, or `final;` and the URLs of partial uploads")
    })?;
    let urls = urls.split(' ').filter(|url| !url.is_empty()).map(parse_url).collect::<Result<Vec<_>>>()?;
    if !(1..=MAX_PARTIAL_UPLOADS).contains(&urls.len()) {
        let message = format!("`Upload-Concat` must list 1 to {MAX_PARTIAL_UPLOADS} partial uploads");
        return Err(invalid(message));
    }
    Ok(Concat::Final(urls))
}

/// Parses the URL of an upload. Ignores the host, and folders before the route, which a proxy may
/// have added: only the uid and the signature count.
fn parse_url(url: &str) -> Result<PartialUrl<'_>> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    match path.rsplit_once('/') {
        Some((route, uid)) if route.ends_with(PREFIX) && !uid.is_empty() => Ok(PartialUrl { uid, query }),
        _ => Err(invalid("`Upload-Concat` has a URL that is not the URL of an upload")),
    }
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::invalid(message).with_field(CONCAT)
}

/// Returns the uids of the partial uploads that a request names. Each URL must have a valid
/// signature, or none: the operation then checks that the caller's tenant owns the upload. A caller
/// that has an upload grant instead of a key may only name uploads whose signed URLs it has.
pub(super) async fn authorize(
    verifier: &LinkVerifier,
    urls: &[PartialUrl<'_>],
    caller: &Caller,
    request: &Parts,
) -> Result<Vec<Uid>> {
    let mut uids = Vec::with_capacity(urls.len());
    for PartialUrl { uid, query } in urls {
        uids.push(if upload_link::is_signed(*query) || caller.grant().is_some() {
            upload_link::verify_query(verifier, uid, *query, request).await?.0
        } else {
            path::parse_uid(uid)?
        });
    }
    Ok(uids)
}

/// Fails with `InvalidArgument` if the request for a final upload announces content.
pub(super) fn check_no_length(headers: &HeaderMap) -> Result<()> {
    match [LENGTH, DEFER_LENGTH].into_iter().find(|name| headers.contains_key(*name)) {
        Some(name) => {
            let message = "the length of a final upload follows from its partial uploads";
            Err(Error::invalid(message).with_field(name))
        }
        None => Ok(()),
    }
}

/// What a final upload is created with.
pub(super) struct FinalCreation {
    pub(super) uploads: Arc<UploadOps>,
    pub(super) links: Arc<Links>,
    pub(super) forwarder: Forwarder,
    pub(super) settings: Arc<HttpSettings>,
    pub(super) caller: Caller,
    /// Lifetime of the upload and its link, in seconds.
    pub(super) lifetime: i64,
}

impl FinalCreation {
    /// Creates and completes the upload, on the node that has the parts.
    pub(super) async fn run(
        self,
        upload: UploadRequest,
        partial_uids: Vec<Uid>,
        request: Parts,
    ) -> HandlerResult<Response> {
        let Self { uploads, links, forwarder, settings, caller, lifetime } = self;
        let source = forward::request_source(&forwarder, &request)?;
        let created = ops::concatenate_uploads::create_final_upload(
            &uploads,
            &caller,
            upload,
            partial_uids.clone(),
            lifetime,
        );
        let created = created.await?;
        let FinalUpload { uid, size, created_at, .. } = created;
        if source == RequestSource::Client
            && let Some(store) = ops::choose_part_node::parts_elsewhere(&uploads, uid).await?
        {
            // For that node, this is a repeated request.
            return Ok(forward::forward_without_body(&forwarder, source, &store, &request).await?);
        }
        let mut constraints = caller.upload_constraints();
        constraints.shows_metadata |= caller.grant().is_none();
        ops::concatenate_uploads::complete_final_upload(&uploads, created, constraints.clone()).await?;
        let period = LinkPeriod { date: created_at, lifetime_secs: lifetime };
        let mut response = (StatusCode::CREATED, Body::empty()).into_response();
        let headers = response.headers_mut();
        let location = public_url::absolute(&settings, &request, links.tus_link(uid, period, &constraints));
        insert(headers, header::LOCATION.as_str(), &location);
        insert_offset(headers, uid, &UploadOffset { offset: size, size: Some(size), is_complete: true });
        insert(headers, LENGTH, &size);
        insert_role(headers, Some(&Concatenation::Final(partial_uids)));
        Ok(response)
    }
}

/// Adds the role of an upload in a concatenation. The URLs are not signed: their signatures are not
/// needed any more, and would make the header long.
pub(super) fn insert_role(headers: &mut HeaderMap, role: Option<&Concatenation>) {
    match role {
        Some(Concatenation::Partial | Concatenation::Used(_)) => insert(headers, CONCAT, &"partial"),
        Some(Concatenation::Final(uids)) => {
            let urls: Vec<_> = uids.iter().map(|uid| format!("{PREFIX}/{uid}")).collect();
            insert(headers, CONCAT, &format_args!("final;{}", urls.join(" ")));
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_uploads_in_any_form() {
        let url = |uid, query| PartialUrl { uid, query };
        assert_eq!(parse("partial").unwrap(), Concat::Partial);
        assert_eq!(parse("final;/tus/1").unwrap(), Concat::Final(vec![url("1", None)]));
        let several = "final; /tus/1?date=a/b&expire=2  https://x.example:81/files/tus/2?a /tus/3 ";
        let expected = vec![url("1", Some("date=a/b&expire=2")), url("2", Some("a")), url("3", None)];
        assert_eq!(parse(several).unwrap(), Concat::Final(expected));
        for bad in [
            "",
            "Partial",
            "partial;",
            "final",
            "final;",
            "final; ",
            "final;/tus/",
            "final;/tus",
            "final;1",
            "final;/files/1",
            "final;/tus/1/2",
            "final;/tus/1 x",
            "final /tus/1",
            "partial /tus/1",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let many = |count: usize| format!("final;{}", " /tus/1".repeat(count));
        assert!(parse(&many(MAX_PARTIAL_UPLOADS)).is_ok());
        assert!(parse(&many(MAX_PARTIAL_UPLOADS + 1)).is_err());
    }
}
