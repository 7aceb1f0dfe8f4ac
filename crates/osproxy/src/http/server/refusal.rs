//! The answer to a head that hyper cannot read. Hyper writes one of its own, a bare status, and calls no service. It is replaced by
//! what the router answers, so that it has a code, a request id and CORS headers as all others do.

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

use super::Peer;

/// How hyper's answers begin.
const STATUS_LINE: &[u8] = b"HTTP/1.1 ";
/// How many bytes are still read from the client, so that it gets to see the answer: closing a connection on a client that is
/// still sending would destroy it.
const MAX_DRAINED: usize = 16 << 20;

/// An extension of the request that stands for one whose head cannot be read, with the status that hyper has for it.
#[derive(Clone, Copy, Debug)]
pub struct Unreadable(pub StatusCode);

/// Answers the one head of a connection that cannot be read: it is the last.
pub(super) struct Refusal {
    router: Router,
    peer: SocketAddr,
    state: State,
}

enum State {
    /// All heads could be read.
    Unused,
    /// The router is asked.
    Asking(Pin<Box<dyn Future<Output = Bytes> + Send>>),
    /// This is still to be written.
    Writing(Bytes),
    /// The answer is written, and so many bytes of the client were read since.
    Draining(usize),
}

impl Refusal {
    pub(super) fn new(router: Router, peer: SocketAddr) -> Self {
        Self { router, peer, state: State::Unused }
    }

    /// Whether these bytes, which answer no request, are an answer of hyper's. With HTTP/2 there are others.
    pub(super) fn replaces(bytes: &[u8]) -> bool {
        bytes.starts_with(STATUS_LINE)
    }

    /// Writes the router's answer in the place of hyper's.
    pub(super) fn poll_write(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        replaced: &[u8],
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                State::Unused => {
                    self.state =
                        State::Asking(Box::pin(ask(self.router.clone(), self.peer, status(replaced))));
                }
                State::Asking(answer) => self.state = State::Writing(ready!(answer.as_mut().poll(cx))),
                State::Writing(answer) if answer.has_remaining() => {
                    let written = ready!(io.as_mut().poll_write(cx, answer))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    answer.advance(written);
                }
                State::Writing(_) => self.state = State::Draining(0),
                State::Draining(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads what the client still sends after the answer, for as long as the connection's watch allows.
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
            // What is wrong with the connection now is of no interest.
            if ready!(io.as_mut().poll_read(cx, &mut buffer)).is_err() || buffer.filled().is_empty() {
                break;
            }
            *drained += buffer.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

/// The status of an answer of hyper's.
fn status(answer: &[u8]) -> StatusCode {
    let digits = answer.get(STATUS_LINE.len()..).and_then(|rest| rest.get(..3));
    digits.and_then(|digits| StatusCode::from_bytes(digits).ok()).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn ask(router: Router, peer: SocketAddr, status: StatusCode) -> Bytes {
    let mut request = Request::new(Body::empty());
    // A path that no route has.
    *request.uri_mut() = axum::http::Uri::from_static("*");
    request.extensions_mut().insert(Peer(peer));
    request.extensions_mut().insert(Unreadable(status));
    let answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
    written(answer).await
}

/// An answer as it stands on the wire, the last one of its connection.
async fn written(answer: Response<Body>) -> Bytes {
    let (mut head, body) = answer.into_parts();
    // It consists of one piece that is there.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    head.headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    head.headers.insert(header::CONTENT_LENGTH, body.len().into());
    if let Ok(date) = httpdate::fmt_http_date(std::time::SystemTime::now()).parse() {
        head.headers.insert(header::DATE, date);
    }
    let mut bytes = Vec::with_capacity(1024 + body.len());
    let status = head.status;
    // A vector takes everything.
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
