use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::Body,
    http::{Method, StatusCode, request::Parts},
};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tracing::Span;

use crate::app::Busy;

/// What the one line of a request says. The query is left out: it carries signatures.
pub(super) struct AccessLine {
    method: Method,
    path: String,
    peer: Option<IpAddr>,
    received: Arc<AtomicU64>,
    start: Instant,
    span: Span,
    /// None as long as there is no answer.
    status: Option<StatusCode>,
    bytes_sent: u64,
    complete: bool,
    /// The request runs as long as it has no line.
    _busy: Busy,
}

/// Longest path in a line, in bytes.
const MAX_PATH: usize = 1024;

impl AccessLine {
    pub(super) fn new(
        parts: &Parts,
        peer: Option<IpAddr>,
        received: Arc<AtomicU64>,
        start: Instant,
        span: Span,
        busy: Busy,
    ) -> Self {
        Self {
            method: parts.method.clone(),
            path: parts.uri.path().chars().take(MAX_PATH).collect(),
            peer,
            received,
            start,
            span,
            status: None,
            bytes_sent: 0,
            complete: false,
            _busy: busy,
        }
    }
}

/// However a request ends, it leaves its line: also when the client went away before there was an answer.
impl Drop for AccessLine {
    fn drop(&mut self) {
        let duration_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let _in_request = self.span.enter();
        tracing::info!(
            method = %self.method,
            path = self.path,
            status = self.status.map(|status| status.as_u16()),
            duration_us,
            bytes_received = self.received.load(Ordering::Relaxed),
            bytes_sent = self.bytes_sent,
            complete = self.complete,
            peer = self.peer.map(tracing::field::display),
            "served"
        );
    }
}

/// The body of an answer. When it has ended, or was given up, the request's line is written.
pub(super) struct LoggedBody {
    body: Body,
    line: AccessLine,
}

impl LoggedBody {
    pub(super) fn new(body: Body, mut line: AccessLine, status: StatusCode) -> Self {
        line.status = Some(status);
        line.complete = body.is_end_stream();
        Self { body, line }
    }
}

impl http_body::Body for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.line.complete = true,
            Some(Ok(frame)) => {
                self.line.bytes_sent += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                self.line.complete = self.body.is_end_stream();
            }
            Some(Err(error)) => {
                let error = crate::error::chain(error);
                self.line.span.in_scope(|| tracing::error!(error, "the answer broke off"));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
