//! Hands a request on to the node that holds its data.

use axum::{
    body::Body,
    extract::{OriginalUri, Request},
    http::{Extensions, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::Response,
};
use osproxy_api::ErrorCode;

use super::{
    body,
    middleware::{ClientAddr, REQUEST_ID, RequestId, X_FORWARDED_FOR},
};
use crate::{
    Error, Result,
    app::{App, Node},
    cluster::{self, Destination, Unanswered},
    error, traces,
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
    if let Some(RequestId(id)) = request.extensions().get().cloned()
        && let Ok(id) = HeaderValue::try_from(&*id)
    {
        request.headers_mut().insert(REQUEST_ID, id);
    }
    traces::hand_on(request.headers_mut());
    tell_client(&mut request);
    let node = app.node_with(store, false).await?;
    let unanswered = match forward_to(app, &node, request).await {
        Err(Unanswered { why, is_clients: true, .. }) => return Err(broken_off(&*why)),
        Err(unanswered) => unanswered,
        Ok(answer) => return Ok(answer),
    };
    let (address, why) = (&node.address, error::chain(&*unanswered.why));
    tracing::warn!(node = node.id, address, error = why, "a node does not answer");
    // It may have been started anew since it was heard of.
    let follower = app.node_with(store, true).await?;
    let again = unanswered.untouched.filter(|_| follower.id != node.id);
    let Some(request) = again else {
        return Err(Error::node_unavailable(unanswered.why));
    };
    match forward_to(app, &follower, *request).await {
        Err(Unanswered { why, is_clients: true, .. }) => Err(broken_off(&*why)),
        Err(unanswered) => Err(Error::node_unavailable(unanswered.why)),
        Ok(answer) => Ok(answer),
    }
}

/// Says whose request it is. Only what this node knows: the other one may believe it, as it would a proxy.
fn tell_client(request: &mut Request) {
    let client = request.extensions().get().and_then(|ClientAddr(client)| client.to_string().parse().ok());
    let headers = request.headers_mut();
    headers.remove(header::FORWARDED);
    headers.remove(X_FORWARDED_FOR);
    if let Some(client) = client {
        headers.insert(X_FORWARDED_FOR, client);
    }
}

async fn forward_to(app: &App, node: &Node, request: Request) -> Result<Response, Unanswered> {
    let answer = app.cluster.forward(Destination { id: &node.id, address: &node.address }, request).await;
    answer.map(|mut answer| {
        // This node says it as well, as of every answer.
        answer.headers_mut().remove(header::VARY);
        answer
    })
}

/// The node is not to blame for a client that stops sending.
fn broken_off(why: &(dyn std::error::Error + 'static)) -> Error {
    tracing::debug!(error = error::chain(why), "the client broke off");
    body::broken(why)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_node_is_told_no_client_but_the_one_that_is_known() {
        let forged = || {
            let request =
                Request::get("/").header(X_FORWARDED_FOR, "6.6.6.6").header(X_FORWARDED_FOR, "7.7.7.7");
            request.header(header::FORWARDED, "for=6.6.6.6").body(Body::empty()).unwrap()
        };
        let mut request = forged();
        request.extensions_mut().insert(ClientAddr([192, 0, 2, 7].into()));
        tell_client(&mut request);
        let told: Vec<_> = request.headers().get_all(X_FORWARDED_FOR).iter().collect();
        assert_eq!(told, ["192.0.2.7"]);
        assert!(!request.headers().contains_key(header::FORWARDED));
        let mut request = forged();
        tell_client(&mut request);
        assert!(request.headers().is_empty());
    }
}
