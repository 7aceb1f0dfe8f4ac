//! Forwards requests to the node that has their data.

use std::{net::IpAddr, sync::Arc};

use hmac::digest::InvalidLength;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use osproxy_types::error_chain;

use crate::{
    Body, BoxError, Destination, ForwardError, InvalidPeerToken, NoOwner, NodeDescription, Owners,
    PeerClient, remove_hop_by_hop_headers, trace_context,
};

/// Header with the id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header in which proxies name the client.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Forwards the requests of clients, and verifies requests that other nodes forwarded. Clones share
/// their connections.
#[derive(Clone)]
pub struct Forwarder(Arc<Inner>);

struct Inner {
    peers: PeerClient,
    owners: Owners,
    /// Id of this node.
    node_id: String,
}

/// What the other node learns about a request beside its head and body.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardContext<'a> {
    /// Id of the request, for the log lines of both nodes.
    pub request_id: Option<&'a str>,
    /// Address of the client.
    pub client: Option<IpAddr>,
}

/// Why a forwarded request has no response.
#[derive(Debug)]
pub enum ForwardFailure {
    /// The request body broke off, for this reason. The other node is not to blame.
    BodyAborted(BoxError),
    /// The node does not answer, for this reason.
    Unavailable(BoxError),
    /// The node is unknown.
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
    /// Creates the forwarder of the node `node_id`.
    pub fn new(peers: PeerClient, owners: Owners, node_id: String) -> Self {
        Self(Arc::new(Inner { peers, owners, node_id }))
    }

    /// Replaces the secrets that authenticate nodes to each other. The first one signs.
    pub fn replace_secrets(&self, secrets: &[Vec<u8>]) -> Result<(), InvalidLength> {
        self.0.peers.replace_secrets(secrets)
    }

    /// Whether a request was forwarded to this node. Fails if the request claims so with an invalid
    /// token.
    pub fn is_forwarded(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<bool, InvalidPeerToken> {
        self.0.peers.is_forwarded(&self.0.node_id, method, uri, headers)
    }

    /// Forwards a request to the node that has `store`, and returns its response. Both bodies are
    /// streamed. Must not be called for a request that was itself forwarded.
    pub async fn forward(
        &self,
        store: &str,
        context: ForwardContext<'_>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ForwardFailure> {
        let headers = request.headers_mut();
        // Must come first: a client that lists a header in `Connection` must not remove one that is
        // set below.
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
        // It may have restarted since its last heartbeat.
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
        // This node adds it to every response itself.
        response.headers_mut().remove(header::VARY);
        Ok(response)
    }
}

/// Sets `X-Forwarded-For` to the client's address. The other node trusts this node like a proxy, so
/// headers from the client itself are removed.
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
