//! Forwarding of requests to a node that has the store of a file. A forwarded request is never
//! forwarded again.

use axum::{
    body::Body,
    extract::{OriginalUri, Request},
    http::{Extensions, StatusCode, Uri, request::Parts},
    response::Response,
};
use osproxy_api::ErrorCode;
use osproxy_cluster::{ForwardContext, ForwardFailure, Forwarder};
use osproxy_core::{ClientAddr, Error, RequestId, Result};

use crate::extract::body;

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestSource {
    Client,
    /// Another node, which forwarded the request.
    Node,
}

/// Returns the sender of a request. Fails with `PermissionDenied` if the request claims to be
/// forwarded, but has no valid peer token.
pub(super) fn request_source(forwarder: &Forwarder, request: &Parts) -> Result<RequestSource> {
    let uri = original_uri(&request.extensions).unwrap_or(&request.uri);
    match forwarder.is_forwarded(&request.method, uri, &request.headers) {
        Ok(false) => Ok(RequestSource::Client),
        Ok(true) => Ok(RequestSource::Node),
        Err(error) => {
            tracing::warn!(%error, "rejected a forwarded request");
            Err(Error::new(
                ErrorCode::PermissionDenied,
                "the request has an invalid peer token; only nodes of this cluster may forward requests",
            ))
        }
    }
}

/// Returns the URI as it was received. Nested routers strip their prefix from the URI of the
/// request itself.
fn original_uri(extensions: &Extensions) -> Option<&Uri> {
    extensions.get::<OriginalUri>().map(|OriginalUri(uri)| uri)
}

/// Forwards a request to a node that has `store`, and returns the response of that node. Fails with
/// `NodeUnavailable` if the request was already forwarded, or if no such node can be reached.
pub(super) async fn forward(
    forwarder: &Forwarder,
    source: RequestSource,
    store: &str,
    request: Request,
) -> Result<Response> {
    if source == RequestSource::Node {
        return Err(Error::store_unreachable(store));
    }
    let mut request = request;
    if let Some(uri) = original_uri(request.extensions()).cloned() {
        *request.uri_mut() = uri;
    }
    let id = request.extensions().get::<RequestId>().cloned();
    let context = ForwardContext {
        request_id: id.as_ref().map(|RequestId(id)| &**id),
        client: request.extensions().get().map(|ClientAddr(client)| *client),
    };
    let response = forwarder.forward(store, context, request.map(osproxy_cluster::boxed)).await;
    response.map(|response| response.map(Body::new)).map_err(|failure| match failure {
        ForwardFailure::BodyAborted(error) => body::incomplete_body_error(&*error),
        failure => failure.into(),
    })
}

/// Forwards the head of a request, without a body. The caller keeps the head, and can forward it to
/// another node later.
pub(super) async fn forward_without_body(
    forwarder: &Forwarder,
    source: RequestSource,
    store: &str,
    request: &Parts,
) -> Result<Response> {
    forward(forwarder, source, store, Request::from_parts(request.clone(), Body::empty())).await
}

/// Whether `response` comes from another node that does not have the content either.
pub(super) fn is_misdirected(response: &Response) -> bool {
    osproxy_cluster::is_error(response, StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NodeUnavailable)
}
