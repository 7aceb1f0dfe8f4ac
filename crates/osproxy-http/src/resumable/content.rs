//! Resumable uploads to the URL for the whole content of an upload in API v1.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use osproxy_api::tus::{OFFSET, PREFIX, UID};
use osproxy_cluster::Forwarder;
use osproxy_core::ops::{
    self, LinkConstraints, UploadOps, UploadOptions,
    append_upload::{AppendSpec, UploadOffset},
};
use osproxy_types::uid::Uid;

use super::{
    draft::{Draft, length},
    problem,
    response::{UploadLimits, describe_limits},
};
use crate::{
    extract::{body, public_url},
    forward::{self, RequestSource},
    respond::error::HandlerResult,
    settings::HttpSettings,
    tus::insert,
    v1::uploads,
};

/// A request that uses the draft to send the content of an upload of API v1.
pub(crate) struct ContentRequest {
    pub(crate) draft: Draft,
    /// Whether the content ends with the body.
    pub(crate) ends_content: bool,
    pub(crate) uid: Uid,
    /// Constraints of the link.
    pub(crate) constraints: LinkConstraints,
    pub(crate) head: Parts,
    pub(crate) body: Body,
}

/// Receives the first bytes of an upload, or all of them. The upload continues at the URL that tus
/// uses too.
pub(crate) async fn upload_content(
    uploads: &Arc<UploadOps>,
    forwarder: &Forwarder,
    settings: &HttpSettings,
    request: ContentRequest,
) -> HandlerResult<Response> {
    let ContentRequest { draft, ends_content, uid, constraints, head, body: content } = request;
    let size = body::size(&content);
    let announced_size = length(&head.headers, 0, size, ends_content)?;
    let expires_at = ops::append_upload::describe_upload(uploads, uid).await?.expires_at.div_euclid(1000);
    let limits =
        UploadLimits { max_size: uploads.max_size_within(&constraints), expires_at: Some(expires_at) };
    // The link of the request is signed for the same upload.
    let location = format!("{PREFIX}/{uid}?{}", head.uri.query().unwrap_or_default());
    let location = public_url::absolute(settings, &head, location);
    draft.announce(&head, &location, limits);
    if forward::request_source(forwarder, &head)? == RequestSource::Client
        && let Some(store) = ops::choose_part_node::choose_part_node(uploads, uid).await?
    {
        let request = axum::extract::Request::from_parts(head, content);
        let mut response = forward::forward(forwarder, RequestSource::Client, &store, request).await?;
        // The other node does not know how the client reaches this one.
        if response.headers().contains_key(header::LOCATION) {
            insert(response.headers_mut(), header::LOCATION.as_str(), &location);
        }
        return Ok(response);
    }
    let UploadOffset { offset, is_complete, .. } =
        ops::append_upload::upload_offset(uploads, uid, &constraints).await?;
    let (_, content) = body::into_content(content);
    let received = if ends_content && (offset > 0 || is_complete) {
        // The client starts again, perhaps because it has not received the interim response. So the
        // whole content is stored beside the bytes that were received.
        let options = UploadOptions { constraints, ..UploadOptions::default() };
        ops::upload_file::upload_file(uploads, uid, options, size, content).await?;
        None
    } else {
        let spec = AppendSpec { offset: 0, size, ends_content, checksum: None, announced_size };
        let appending =
            ops::append_upload::append_upload(uploads, uid, spec.clone(), constraints, content.boxed());
        match appending.await {
            Ok(received) => Some(received),
            Err(error) => {
                return Err(problem::end_after_error(uploads, uid, &spec, error, limits.max_size)
                    .await
                    .into());
            }
        }
    };
    let mut response = if ends_content {
        uploads::status(uploads, uid).await?.into_response()
    } else {
        StatusCode::CREATED.into_response()
    };
    let headers = response.headers_mut();
    insert(headers, header::LOCATION.as_str(), &location);
    insert(headers, UID, &uid);
    if let Some(received) = received {
        insert(headers, OFFSET, &received.offset);
    }
    draft.insert_completeness(headers, ends_content);
    draft.insert_limits(headers, limits);
    Ok(response)
}

/// `OPTIONS`: the limits.
pub(crate) async fn describe_content(State(uploads): State<Arc<UploadOps>>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    describe_limits(response.headers_mut(), uploads.max_size());
    response
}
