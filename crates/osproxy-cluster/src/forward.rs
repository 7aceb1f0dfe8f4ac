//! Forwards requests to the node that has their data.

use std::{net::IpAddr, sync::Arc};

use hmac::digest::InvalidLength;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use osproxy_types::error_chain;

use crate::{
    Body, BoxError, Destination, ForwardError, InvalidPeerToken, NoOwner, NodeDescription, Owners,
    PeerClient, boxed_future, remove_hop_by_hop_headers, trace_context,
};

/// Header with the id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header in which proxies send the address of the client.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Forwards the requests of clients, and verifies requests that other nodes forwarded. Clones share
/// one connection pool.
#[derive(Clone)]
pub struct Forwarder(Arc<Inner>);

struct Inner {
    peers: PeerClient,
    owners: Owners,
    /// Id of this node.
    node_id: String,
}

/// Information that is forwarded to the other node in addition to the head and body of the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardContext<'a> {
    /// Id of the request, which appears in the logs of both nodes.
    pub request_id: Option<&'a str>,
    /// Address of the client, if it is known.
    pub client: Option<IpAddr>,
}

/// Why a forwarded request has no response.
#[derive(Debug)]
pub enum ForwardFailure {
    /// The client aborted the request body; the other node is not to blame. Contains the cause.
    BodyAborted(BoxError),
    /// The other node did not answer or rejected the token, or too many requests were being
    /// forwarded at the same time. Contains the cause.
    Unavailable(BoxError),
    /// No live node that serves the store is known.
    NoOwner(NoOwner),
}

impl From<NoOwner> for ForwardFailure {
    fn from(error: NoOwner) -> Self {
        Self::NoOwner(error)
    }
}

impl From<ForwardError> for ForwardFailure {
    fn from(ForwardError { source, is_client_fault, .. }: ForwardError) -> Self {
        if is_client_fault {
            tracing::debug!(error = error_chain(&*source), "the client aborted a forwarded request");
            Self::BodyAborted(source)
        } else {
            Self::Unavailable(source)
        }
    }
}

impl Forwarder {
    /// Creates a forwarder. `node_id` is the id of this node.
    pub fn new(peers: PeerClient, owners: Owners, node_id: String) -> Self {
        Self(Arc::new(Inner { peers, owners, node_id }))
    }

    /// Replaces the secrets that authenticate nodes to each other. This node signs with the first
    /// secret, and accepts requests that were signed with any of them.
    pub fn replace_secrets(&self, secrets: &[Vec<u8>]) -> Result<(), InvalidLength> {
        self.0.peers.replace_secrets(secrets)
    }

    /// Whether another node forwarded this request. Fails if the request has an invalid token.
    pub fn is_forwarded(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<bool, InvalidPeerToken> {
        self.0.peers.is_forwarded(&self.0.node_id, method, uri, headers)
    }

    /// Forwards a request to the node that has `store`, and returns the response of that node. Both
    /// bodies are streamed. Must not be called for a request that another node forwarded to this
    /// node.
    #[boxed_future]
    pub async fn forward<'a>(
        &'a self,
        store: &str,
        context: ForwardContext<'a>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ForwardFailure> {
        let headers = request.headers_mut();
        // Must come before the headers below are set: otherwise, a client could list such a header
        // in `Connection`, and this call would remove it.
        remove_hop_by_hop_headers(headers);
        if let Some(id) = context.request_id.and_then(|id| HeaderValue::try_from(id).ok()) {
            headers.insert(REQUEST_ID, id);
        }
        trace_context::inject_context(headers);
        set_forwarded_for(headers, context.client);
        let owners = &self.0.owners;
        let node = owners.owner_of(store, false).await?;
        let failure = match self.forward_to(&node, request).await {
            Ok(response) => return Ok(response),
            Err(failure) if failure.is_client_fault => return Err(failure.into()),
            Err(failure) => failure,
        };
        let (address, source) = (&node.address, error_chain(&*failure.source));
        tracing::warn!(node = node.id, address, error = source, "cannot forward a request to a node");
        // The node may have restarted under another id since its last heartbeat.
        let replacement = owners.owner_of(store, true).await?;
        match failure.unread_request {
            Some(request) if replacement.id != node.id => Ok(self.forward_to(&replacement, *request).await?),
            unread_request => Err(ForwardError { unread_request, ..failure }.into()),
        }
    }

    async fn forward_to(
        &self,
        node: &NodeDescription,
        request: Request<Body>,
    ) -> Result<Response<Body>, ForwardError> {
        let to = Destination { id: &node.id, address: &node.address };
        let mut response = self.0.peers.forward(to, request).await?;
        // This node itself adds `Vary` to every response.
        response.headers_mut().remove(header::VARY);
        Ok(response)
    }
}

/// Sets `X-Forwarded-For` to the address of the client. Removes the client's own `X-Forwarded-For`
/// and `Forwarded` headers, because the other node trusts headers from this node.
fn set_forwarded_for(headers: &mut HeaderMap, client: Option<IpAddr>) {
    headers.remove(header::FORWARDED);
    headers.remove(X_FORWARDED_FOR);
    if let Some(client) = client.and_then(|client| client.to_string().parse().ok()) {
        headers.insert(X_FORWARDED_FOR, client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x_forwarded_for_has_only_the_address_of_the_client() {
        let forged = || {
            let request =
                Request::get("/").header(X_FORWARDED_FOR, "6.6.6.6").header(X_FORWARDED_FOR, "7.7.7.7");
            request.header(header::FORWARDED, "for=6.6.6.6").body(()).unwrap().into_parts().0.headers
        };
        let mut headers = forged();
        set_forwarded_for(&mut headers, Some([192, 0, 2, 7].into()));
        let addresses: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
        assert_eq!(addresses, ["192.0.2.7"]);
        assert!(!headers.contains_key(header::FORWARDED));
        let mut headers = forged();
        set_forwarded_for(&mut headers, None);
        assert!(headers.is_empty());
    }
}
