//! Hands a request on to the node that holds its data.

use axum::{
    body::Body,
    extract::{OriginalUri, Request},
    http::{Extensions, StatusCode, Uri, request::Parts},
    response::Response,
};
use osproxy_api::ErrorCode;

use super::body;
use crate::{
    Error, Result,
    app::{App, Unforwarded},
    cluster,
};

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client.
    Client,
    /// A node that was asked for what is here.
    Node,
}

/// Who sent a request. Whoever says that it was forwarded, and is no node, is refused.
pub(super) fn origin(app: &App, request: &Parts) -> Result<Origin> {
    let uri = whole(&request.extensions).unwrap_or(&request.uri);
    match app.cluster.is_forwarded(&app.node, &request.method, uri, &request.headers) {
        Ok(false) => Ok(Origin::Client),
        Ok(true) => Ok(Origin::Node),
        Err(stranger) => {
            tracing::warn!(%stranger, "refused");
            Err(Error::new(ErrorCode::PermissionDenied, "only nodes of this service forward requests"))
        }
    }
}

/// The URI of a request, of which routers cut off what they have looked at.
fn whole(extensions: &Extensions) -> Option<&Uri> {
    extensions.get::<OriginalUri>().map(|OriginalUri(uri)| uri)
}

/// Hands a request on to the node that has a store at hand, and gives its answer. A node is not asked to hand it on again.
pub(super) async fn forward(app: &App, origin: Origin, store: &str, request: Request) -> Result<Response> {
    if origin == Origin::Node {
        return Err(Error::elsewhere(store));
    }
    let mut request = request;
    if let Some(uri) = whole(request.extensions()).cloned() {
        *request.uri_mut() = uri;
    }
    app.forward(store, request).await.map_err(|unforwarded| match unforwarded {
        Unforwarded::Broken(why) => body::broken(&*why),
        Unforwarded::Failed(error) => error,
    })
}

/// The same without a body, which can be asked several nodes.
pub(super) async fn forward_head(
    app: &App,
    origin: Origin,
    store: &str,
    request: &Parts,
) -> Result<Response> {
    forward(app, origin, store, Request::from_parts(request.clone(), Body::empty())).await
}

/// Whether a node says that it has not got the data either.
pub(super) fn is_misdirected(answer: &Response) -> bool {
    cluster::is_error(answer, StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NodeUnavailable)
}
