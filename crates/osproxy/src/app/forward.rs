//! Forwards requests to the node that has their data.

use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use osproxy_types::error_chain;

use super::{App, ClientAddr, RequestId};
use crate::{
    Error,
    cluster::{self, BoxError, Destination, ForwardError},
    coord::{NoOwner, NodeDescription},
    trace_context,
};

/// Header with the id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header in which proxies name the client.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Why a forwarded request has no response.
#[derive(Debug)]
pub enum ForwardFailure {
    /// The request body broke off, for this reason. The other node is not to blame.
    BodyAborted(BoxError),
    /// The node is unknown or does not answer.
    Unavailable(Error),
}

impl From<NoOwner> for ForwardFailure {
    fn from(NoOwner { store }: NoOwner) -> Self {
        Self::Unavailable(Error::store_unreachable(&store))
    }
}

impl From<ForwardError> for ForwardFailure {
    fn from(ForwardError { source: why, is_client_fault: is_clients, .. }: ForwardError) -> Self {
        if is_clients {
            tracing::debug!(error = error_chain(&*why), "the client aborted a forwarded request");
            Self::BodyAborted(why)
        } else {
            Self::Unavailable(Error::node_unavailable(why))
        }
    }
}

impl App {
    /// Forwards a request to the node that has `store`, and returns its response. Both bodies are
    /// streamed. Must not be called for a request that was itself forwarded.
    pub async fn forward(
        &self,
        store: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, ForwardFailure> {
        let mut request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
        // Must come first: a client that lists a header in `Connection` must not remove one that is
        // set below.
        cluster::remove_hop_by_hop_headers(request.headers_mut());
        if let Some(RequestId(id)) = request.extensions().get().cloned()
            && let Ok(id) = HeaderValue::try_from(&*id)
        {
            request.headers_mut().insert(REQUEST_ID, id);
        }
        trace_context::inject_context(request.headers_mut());
        set_forwarded_for(&mut request);
        let node = self.owners.owner_of(store, false).await?;
        let unanswered = match self.forward_to(&node, request).await {
            Ok(answer) => return Ok(answer.map(Body::new)),
            Err(unanswered) if unanswered.is_client_fault => return Err(unanswered.into()),
            Err(unanswered) => unanswered,
        };
        let (address, why) = (&node.address, error_chain(&*unanswered.source));
        tracing::warn!(node = node.id, address, error = why, "a node does not answer");
        // It may have restarted since its last heartbeat.
        let replacement = self.owners.owner_of(store, true).await?;
        match unanswered.unread_request {
            Some(request) if replacement.id != node.id => {
                Ok(self.forward_to(&replacement, *request).await?.map(Body::new))
            }
            untouched => Err(ForwardError { unread_request: untouched, ..unanswered }.into()),
        }
    }

    async fn forward_to(
        &self,
        node: &NodeDescription,
        request: Request<cluster::Body>,
    ) -> Result<Response<cluster::Body>, ForwardError> {
        let answer =
            self.cluster.forward(Destination { id: &node.id, address: &node.address }, request).await;
        answer.map(|mut answer| {
            // This node adds it to every response itself.
            answer.headers_mut().remove(header::VARY);
            answer
        })
    }
}

/// Sets `X-Forwarded-For` to the client's address. The other node trusts this node like a proxy, so
/// headers from the client itself are removed.
fn set_forwarded_for<B>(request: &mut Request<B>) {
    let client = request.extensions().get().and_then(|ClientAddr(client)| client.to_string().parse().ok());
    let headers = request.headers_mut();
    headers.remove(header::FORWARDED);
    headers.remove(X_FORWARDED_FOR);
    if let Some(client) = client {
        headers.insert(X_FORWARDED_FOR, client);
    }
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
        set_forwarded_for(&mut request);
        let told: Vec<_> = request.headers().get_all(X_FORWARDED_FOR).iter().collect();
        assert_eq!(told, ["192.0.2.7"]);
        assert!(!request.headers().contains_key(header::FORWARDED));
        let mut request = forged();
        set_forwarded_for(&mut request);
        assert!(request.headers().is_empty());
    }
}
