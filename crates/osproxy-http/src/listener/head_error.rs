//! Responses to requests whose head hyper cannot parse. Hyper does not call the service for them,
//! but writes a response with a bare status. This module replaces that response with the router's
//! response, which has an error code, a request id and CORS headers.

use std::{
    future::Future,
    io::{self, Write},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::ServiceExt;

use super::RemoteAddr;

/// Start of a response that hyper writes.
const STATUS_LINE: &[u8] = b"HTTP/1.1 ";
/// Maximum number of bytes to read from the client after the response. If the connection were
/// closed while the client is still sending, the client could lose the response.
const MAX_DRAINED: usize = 16 << 20;

/// Request extension that marks a placeholder: the router gets this request in place of a request
/// whose head hyper cannot parse. Holds the status that hyper chose.
#[derive(Clone, Copy, Debug)]
pub struct UnparsableHead(pub StatusCode);

/// Writes the response to a head that hyper cannot parse. The connection ends after this response.
pub(super) struct HeadErrorResponder {
    router: Router,
    peer: SocketAddr,
    state: State,
}

enum State {
    /// All heads so far were valid.
    Idle,
    /// The router produces the response.
    Routing(Pin<Box<dyn Future<Output = Bytes> + Send>>),
    /// The rest of the response is still to be written.
    Writing(Bytes),
    /// The response is written. Counts the bytes that were read from the client since then.
    Draining(usize),
}

impl HeadErrorResponder {
    pub(super) fn new(router: Router, peer: SocketAddr) -> Self {
        Self { router, peer, state: State::Idle }
    }

    /// Whether `bytes`, which hyper writes outside a request, are a response and not an HTTP/2
    /// frame.
    pub(super) fn is_hyper_response(bytes: &[u8]) -> bool {
        bytes.starts_with(STATUS_LINE)
    }

    /// Writes the router's response instead of `hyper_response`.
    pub(super) fn poll_write(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        hyper_response: &[u8],
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                State::Idle => {
                    self.state = State::Routing(Box::pin(route_error(
                        self.router.clone(),
                        self.peer,
                        parse_status(hyper_response),
                    )));
                }
                State::Routing(response) => self.state = State::Writing(ready!(response.as_mut().poll(cx))),
                State::Writing(response) if response.has_remaining() => {
                    let written = ready!(io.as_mut().poll_write(cx, response))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    response.advance(written);
                }
                State::Writing(_) => self.state = State::Draining(0),
                State::Draining(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Drains the data that the client still sends after the response. `ConnTimeouts` limits the
    /// time for this.
    pub(super) fn poll_drain(
        &mut self,
        mut io: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let State::Draining(drained) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let mut buffer = [0; 4096];
        while *drained < MAX_DRAINED {
            let mut buffer = ReadBuf::new(&mut buffer);
            // Errors do not matter: the connection is being closed.
            if ready!(io.as_mut().poll_read(cx, &mut buffer)).is_err() || buffer.filled().is_empty() {
                break;
            }
            *drained += buffer.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

/// Parses the status in a response that hyper wrote.
fn parse_status(response: &[u8]) -> StatusCode {
    let digits = response.get(STATUS_LINE.len()..).and_then(|rest| rest.get(..3));
    digits.and_then(|digits| StatusCode::from_bytes(digits).ok()).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn route_error(router: Router, peer: SocketAddr, status: StatusCode) -> Bytes {
    let mut request = Request::new(Body::empty());
    // Matches no route.
    *request.uri_mut() = axum::http::Uri::from_static("*");
    request.extensions_mut().insert(RemoteAddr(peer));
    request.extensions_mut().insert(UnparsableHead(status));
    let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
    serialize(response).await
}

/// Serializes the last response of an HTTP/1.1 connection.
async fn serialize(response: Response<Body>) -> Bytes {
    let (mut head, body) = response.into_parts();
    // Cannot fail: error bodies are in memory.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    head.headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    head.headers.insert(header::CONTENT_LENGTH, body.len().into());
    if let Ok(date) = httpdate::fmt_http_date(std::time::SystemTime::now()).parse() {
        head.headers.insert(header::DATE, date);
    }
    let mut bytes = Vec::with_capacity(1024 + body.len());
    let status = head.status;
    // Writing to a `Vec` cannot fail.
    let _ =
        write!(bytes, "HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes.into()
}
