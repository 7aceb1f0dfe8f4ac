//! Hands requests on to the node that holds their data.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Request, Response, header},
};

use super::{App, ClientAddr, Node, RequestId};
use crate::{
    Error, Result,
    cluster::{self, Destination, Unanswered},
    error, traces,
};

/// The header with the id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header in which proxies say whose request it is.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Why another node gave no answer.
#[derive(Debug)]
pub enum Unforwarded {
    /// The body that was to be sent broke off, for this reason. The node is not to blame.
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// The node cannot be asked, or does not answer.
    Failed(Error),
}

impl From<Error> for Unforwarded {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Unanswered> for Unforwarded {
    fn from(Unanswered { why, is_clients, .. }: Unanswered) -> Self {
        if is_clients {
            tracing::debug!(error = error::chain(&*why), "the client broke off");
            Self::Broken(why)
        } else {
            Self::Failed(Error::node_unavailable(why))
        }
    }
}

impl App {
    /// Hands a request on to the node that has a store at hand, and gives its answer. Both bodies are passed on piece by
    /// piece. Must not be called for a request that comes from a node.
    pub async fn forward(
        &self,
        store: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Unforwarded> {
        // First of all: what a client calls part of its connection must not take away what is said here.
        cluster::strip(request.headers_mut());
        if let Some(RequestId(id)) = request.extensions().get().cloned()
            && let Ok(id) = HeaderValue::try_from(&*id)
        {
            request.headers_mut().insert(REQUEST_ID, id);
        }
        traces::hand_on(request.headers_mut());
        tell_client(&mut request);
        let node = self.node_with(store, false).await?;
        let unanswered = match self.forward_to(&node, request).await {
            Ok(answer) => return Ok(answer),
            Err(unanswered) if unanswered.is_clients => return Err(unanswered.into()),
            Err(unanswered) => unanswered,
        };
        let (address, why) = (&node.address, error::chain(&*unanswered.why));
        tracing::warn!(node = node.id, address, error = why, "a node does not answer");
        // It may have been started anew since it was heard of.
        let follower = self.node_with(store, true).await?;
        match unanswered.untouched {
            Some(request) if follower.id != node.id => Ok(self.forward_to(&follower, *request).await?),
            untouched => Err(Unanswered { untouched, ..unanswered }.into()),
        }
    }

    async fn forward_to(&self, node: &Node, request: Request<Body>) -> Result<Response<Body>, Unanswered> {
        let answer =
            self.cluster.forward(Destination { id: &node.id, address: &node.address }, request).await;
        answer.map(|mut answer| {
            // This node says it as well, as of every answer.
            answer.headers_mut().remove(header::VARY);
            answer
        })
    }
}

/// Says whose request it is. Only what this node knows: the other one may believe it, as it would a proxy.
fn tell_client(request: &mut Request<Body>) {
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
        tell_client(&mut request);
        let told: Vec<_> = request.headers().get_all(X_FORWARDED_FOR).iter().collect();
        assert_eq!(told, ["192.0.2.7"]);
        assert!(!request.headers().contains_key(header::FORWARDED));
        let mut request = forged();
        tell_client(&mut request);
        assert!(request.headers().is_empty());
    }
}
