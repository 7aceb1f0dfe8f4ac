//! Requests for bytes that only another node has: they are forwarded as they are, and the other node
//! authenticates them again.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, header, request::Parts},
    response::Response,
};
use osproxy_cluster::{ForwardContext, Forwarder};
use osproxy_core::{ClientAddr, RequestId, Result};
use s3s::{S3Error, s3_error};

use crate::context::Context;

/// Header of requests that a node forwards to the S3 API of another.
pub const FORWARDED: HeaderName = HeaderName::from_static("osproxy-s3");

/// The error of an operation whose bytes are in `store`, which this node does not have. A request that
/// comes from a client is then forwarded.
pub(crate) fn elsewhere(store: &str) -> S3Error {
    Context::current().set_elsewhere(store);
    s3_error!(ServiceUnavailable, "The node that has the content cannot be reached; retry later")
}

/// Forwards a request to a node that has `store`.
pub(crate) async fn forward(
    forwarder: &Forwarder,
    store: &str,
    mut head: Parts,
    body: Body,
) -> Result<Response> {
    // The signature covers the host, which HTTP/2 sends in the URI.
    if !head.headers.contains_key(header::HOST)
        && let Some(host) = head.uri.authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok())
    {
        head.headers.insert(header::HOST, host);
    }
    head.headers.insert(FORWARDED, HeaderValue::from_static("1"));
    let id = head.extensions.get::<RequestId>().cloned();
    let context = ForwardContext {
        request_id: id.as_ref().map(|RequestId(id)| &**id),
        client: head.extensions.get().map(|ClientAddr(client)| *client),
    };
    let request = Request::from_parts(head, osproxy_cluster::boxed(body));
    Ok(forwarder.forward(store, context, request).await?.map(Body::new))
}
