//! Forwards requests to the node that holds the data, and verifies requests forwarded by other
//! nodes.
//!
//! The address of the destination comes from the registry; no client can choose it. Each forwarded
//! request carries a token that only nodes can create: a MAC over the method, the path and query,
//! the id of the destination node, and the time. A node never forwards a request that another node
//! forwarded.

use std::{
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac, digest::InvalidLength};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use osproxy_api::{ERROR_HEADER, ErrorCode};
use sha2::Sha256;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    boxed_future,
    forwarded_body::{BodyProgress, ForwardedBody},
    timers::IdleTimeout,
};

/// Header with the token of a forwarded request.
const TOKEN_HEADER: HeaderName = HeaderName::from_static("osproxy-forwarded");
/// Maximum clock difference between nodes, in seconds. Also limits how long a token is valid.
const MAX_CLOCK_SKEW_SECS: u64 = 300;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the client keeps an idle connection. Shorter than the default of `server.idle_timeout`,
/// so that a server does not close a connection that the client is about to use.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Maximum size of the read buffer and of the write buffer of a connection, in bytes.
const MAX_BUFFERED: usize = 64 << 10;
/// Headers that concern only one connection.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The cause of an error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or response between nodes.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Converts a body into a [`Body`].
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Client and verifier for requests between nodes.
pub struct PeerClient {
    client: Client<HttpConnector, ForwardedBody>,
    /// The first secret signs tokens. Tokens that were signed with any of the secrets are accepted.
    secrets: RwLock<Arc<[Hmac<Sha256>]>>,
    timeout: Duration,
    /// Limits the number of forwarded requests, so that some client connections stay free for local
    /// requests. Without the limit, two nodes could use all their connections to wait for each
    /// other.
    permits: Arc<Semaphore>,
}

/// The node to which a request is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// Id of the node.
    pub id: &'a str,
    /// Host and port of the node.
    pub address: &'a str,
}

/// A request could not be forwarded, or the other node did not answer or rejected the token.
#[derive(Debug)]
pub struct ForwardError {
    /// The cause.
    pub source: BoxError,
    /// Whether the client aborted the request body.
    pub is_client_fault: bool,
    /// The request, if it can be forwarded again because nothing of the body was read.
    pub unread_request: Option<Box<Request<Body>>>,
}

/// The token is not valid for this request, or has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token of a forwarded request is invalid; check that all nodes have the same `cluster.secret` (or, without it, the same link keys) and synchronized clocks"
)]
pub struct InvalidPeerToken;

#[derive(Debug, thiserror::Error)]
#[error("the node made no progress before the timeout")]
struct PeerTimeout;

/// The node rejected the token. The configuration or the registry is wrong, not the client.
#[derive(Debug, thiserror::Error)]
#[error(
    "the node rejected the token: another process now uses the address of the node, or the nodes differ in `cluster.secret`, link keys or clocks"
)]
struct TokenRejected;

#[derive(Debug, thiserror::Error)]
#[error("too many concurrent forwarded requests; retry later")]
struct TooManyForwards;

impl PeerClient {
    /// Creates a client that signs with the first of `secrets`, and accepts requests that were
    /// signed with any of them. A request fails if the other node makes no progress for `timeout`.
    /// At most `max_waiting` requests are forwarded at the same time. Further requests fail
    /// immediately.
    pub fn new(secrets: &[Vec<u8>], timeout: Duration, max_waiting: usize) -> Result<Self, InvalidLength> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_ALIVE)
            .http1_max_buf_size(MAX_BUFFERED)
            .build(connector);
        let secrets = RwLock::new(mac_keys(secrets)?);
        Ok(Self { client, secrets, timeout, permits: Arc::new(Semaphore::new(max_waiting)) })
    }

    /// Replaces the secrets that were passed to [`new`](Self::new).
    pub fn replace_secrets(&self, secrets: &[Vec<u8>]) -> Result<(), InvalidLength> {
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = mac_keys(secrets)?;
        Ok(())
    }

    fn secrets(&self) -> Arc<[Hmac<Sha256>]> {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forwards a request and returns the response. Call [`remove_hop_by_hop_headers`] first. Both
    /// bodies are streamed. Dropping the future or the response body aborts the request on the
    /// other node.
    #[boxed_future]
    pub async fn forward<'a>(
        &'a self,
        to: Destination<'a>,
        request: Request<Body>,
    ) -> Result<Response<Body>, ForwardError> {
        let (parts, body) = request.into_parts();
        let without_response =
            |source| Err(ForwardError { source, is_client_fault: false, unread_request: None });
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return without_response(TooManyForwards.into());
        };
        let head = match self.head(to, &parts) {
            Ok(head) => head,
            Err(source) => return without_response(source),
        };
        let (outgoing, progress) = ForwardedBody::new(body);
        match self.send(head.map(|()| outgoing), &progress).await {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                remove_hop_by_hop_headers(&mut parts.headers);
                let body = TimeoutBody { body, idle: IdleTimeout::new(self.timeout), _permit: permit };
                Ok(Response::from_parts(parts, boxed(body)))
            }
            Err(source) => Err(ForwardError {
                source,
                is_client_fault: progress.is_aborted(),
                unread_request: progress.into_unread().map(|body| Box::new(Request::from_parts(parts, body))),
            }),
        }
    }

    /// The head of the request for the other node.
    fn head(&self, to: Destination<'_>, parts: &Parts) -> Result<Request<()>, BoxError> {
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let token = self.create_token(to.id, &parts.method, path.as_str(), now())?;
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(Authority::try_from(to.address)?)
            .path_and_query(path)
            .build()?;
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.clone_from(&parts.headers);
        // Do not forward this header: this node sends 100 Continue to the client when it reads the
        // body.
        headers.remove(header::EXPECT);
        // Do not forward the length that the client announced: hyper sets the actual length. If a
        // body was shorter than announced, the other node would read the next request as the rest
        // of the body.
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(TOKEN_HEADER, HeaderValue::try_from(token)?);
        Ok(request)
    }

    async fn send(
        &self,
        request: Request<ForwardedBody>,
        progress: &BodyProgress,
    ) -> Result<Response<Incoming>, BoxError> {
        let mut response = std::pin::pin!(self.client.request(request));
        let mut polls = progress.polls();
        loop {
            tokio::select! {
                response = &mut response => {
                    let response = response?;
                    // A node that does not accept the token responds with this error.
                    let is_rejected = is_error(&response, StatusCode::FORBIDDEN, ErrorCode::PermissionDenied);
                    return if is_rejected { Err(TokenRejected.into()) } else { Ok(response) };
                }
                () = tokio::time::sleep(self.timeout) => {}
            }
            // While this node waits for the client, only the timeout of the client connection
            // applies.
            if progress.polls() == polls && !progress.is_waiting_for_client() {
                return Err(PeerTimeout.into());
            }
            polls = progress.polls();
        }
    }

    /// Whether another node forwarded this request to node `id`, which is this node. Fails if the
    /// request has an invalid token.
    pub fn is_forwarded(
        &self,
        id: &str,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<bool, InvalidPeerToken> {
        let Some(token) = headers.get(TOKEN_HEADER) else {
            return Ok(false);
        };
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let verify = || {
            let (issued_at, mac_hex) = token.to_str().ok()?.split_once('.')?;
            let (issued_at, mut mac) = (issued_at.parse().ok()?, [0; 32]);
            hex::decode_to_slice(mac_hex, &mut mac).ok()?;
            let verifies = |secret: &Hmac<Sha256>| {
                update_mac(secret.clone(), id, method, path, issued_at).verify(&mac.into()).is_ok()
            };
            (now().abs_diff(issued_at) <= MAX_CLOCK_SKEW_SECS && self.secrets().iter().any(verifies))
                .then_some(true)
        };
        verify().ok_or(InvalidPeerToken)
    }

    /// Creates a token: `<seconds since the Unix epoch>.<MAC in hexadecimal>`.
    fn create_token(
        &self,
        id: &str,
        method: &Method,
        path: &str,
        issued_at: u64,
    ) -> Result<String, InvalidPeerToken> {
        let secret = self.secrets().first().ok_or(InvalidPeerToken)?.clone();
        let mac = update_mac(secret, id, method, path, issued_at).finalize().into_bytes();
        Ok(format!("{issued_at}.{}", hex::encode(mac)))
    }
}

fn mac_keys(secrets: &[Vec<u8>]) -> Result<Arc<[Hmac<Sha256>]>, InvalidLength> {
    secrets.iter().map(|secret| Hmac::new_from_slice(secret)).collect()
}

/// Adds the fields covered by a token to the MAC, each prefixed with its length.
fn update_mac(mut mac: Hmac<Sha256>, id: &str, method: &Method, path: &str, issued_at: u64) -> Hmac<Sha256> {
    for field in ["forward", id, method.as_str(), path, &issued_at.to_string()] {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field.as_bytes());
    }
    mac
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether a response of another node is an error with this status and code.
pub fn is_error<B>(response: &Response<B>, status: StatusCode, code: ErrorCode) -> bool {
    let error_header = response.headers().get(ERROR_HEADER);
    response.status() == status
        && error_header.is_some_and(|value| value.as_bytes() == code.as_str().as_bytes())
}

/// Removes the headers that concern only one connection, including the headers listed in
/// `Connection`.
pub fn remove_hop_by_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// A response body that fails if the other node makes no progress before the timeout.
struct TimeoutBody {
    body: Incoming,
    idle: IdleTimeout,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for TimeoutBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.idle.poll(cx));
            return Poll::Ready(Some(Err(PeerTimeout.into())));
        };
        self.idle.end_wait();
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer_client(secrets: &[&[u8]]) -> PeerClient {
        let secrets: Vec<_> = secrets.iter().map(|secret| secret.to_vec()).collect();
        PeerClient::new(&secrets, Duration::from_secs(1), 1).unwrap()
    }

    fn is_forwarded(peer_client: &PeerClient, id: &str, request: &Parts) -> Result<bool, InvalidPeerToken> {
        peer_client.is_forwarded(id, &request.method, &request.uri, &request.headers)
    }

    fn request(method: Method, path: &str, token: &str) -> Parts {
        let request = Request::builder().method(method).uri(path).header(TOKEN_HEADER, token);
        request.body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn a_token_is_valid_for_one_request_to_one_node_and_a_short_time() {
        let ours = peer_client(&[b"secret of all nodes"]);
        let token = ours.create_token("two", &Method::PUT, "/x?uid=1", now()).unwrap();
        let forwarded = request(Method::PUT, "/x?uid=1", &token);
        assert_eq!(is_forwarded(&ours, "two", &forwarded), Ok(true));
        assert_eq!(is_forwarded(&ours, "three", &forwarded), Err(InvalidPeerToken));
        for other in [
            request(Method::GET, "/x?uid=1", &token),
            request(Method::PUT, "/x?uid=2", &token),
            request(Method::PUT, "/x", &token),
            request(Method::PUT, "/x?uid=1", &token.replace('.', "0.")),
            request(Method::PUT, "/x?uid=1", ""),
            request(Method::PUT, "/x?uid=1", "1.00"),
        ] {
            assert_eq!(is_forwarded(&ours, "two", &other), Err(InvalidPeerToken), "{other:?}");
        }
        for issued_at in [now() - MAX_CLOCK_SKEW_SECS - 5, now() + MAX_CLOCK_SKEW_SECS + 5] {
            let token = ours.create_token("two", &Method::PUT, "/x?uid=1", issued_at).unwrap();
            assert_eq!(
                is_forwarded(&ours, "two", &request(Method::PUT, "/x?uid=1", &token)),
                Err(InvalidPeerToken)
            );
        }
        assert_eq!(
            is_forwarded(&peer_client(&[b"another secret"]), "two", &forwarded),
            Err(InvalidPeerToken)
        );
        // During a rotation of secrets, nodes accept the old and the new secret.
        let rotated = peer_client(&[b"another secret", b"secret of all nodes"]);
        assert_eq!(is_forwarded(&rotated, "two", &forwarded), Ok(true));
        let mut local = forwarded;
        local.headers.remove(TOKEN_HEADER);
        assert_eq!(is_forwarded(&ours, "two", &local), Ok(false));
    }

    #[test]
    fn headers_of_the_connection_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("transfer-encoding", "chunked"),
            ("range", "bytes=0-1"),
            ("content-length", "7"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        remove_hop_by_hop_headers(&mut headers);
        let mut remaining: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        remaining.sort_unstable();
        assert_eq!(remaining, ["content-length", "range"]);
    }
}
