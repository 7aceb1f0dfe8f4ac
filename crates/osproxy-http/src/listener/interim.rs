//! Interim responses (1xx), which hyper does not send for a service. They are written between the
//! writes of hyper: after everything that it has written before, and before the head of the final
//! response. Only HTTP/1.1 has them: HTTP/2 frames cannot be written beside those of hyper, and
//! clients of HTTP/1.0 do not expect them.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use axum::http::{HeaderMap, StatusCode};
use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Interim responses of a connection.
#[derive(Debug, Default)]
pub(super) struct InterimResponses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Number of the current request.
    request: u64,
    /// Interim responses that are not being written yet.
    queued: Vec<u8>,
}

/// Request extension that sends interim responses. Has an effect until the final response begins.
#[derive(Clone, Debug)]
pub(crate) struct InterimSender {
    responses: Arc<InterimResponses>,
    request: u64,
}

impl InterimResponses {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the next request. Returns the sender for its interim responses.
    pub(super) fn begin_request(self: &Arc<Self>) -> InterimSender {
        let mut state = self.state();
        state.request += 1;
        InterimSender { responses: self.clone(), request: state.request }
    }

    /// Ends the interim responses of the current request. Call this before hyper gets the final
    /// response. Drops interim responses that could not be written yet, because the client does
    /// not read.
    pub(super) fn end_request(&self) {
        let mut state = self.state();
        state.request += 1;
        state.queued = Vec::new();
    }
}

impl InterimSender {
    /// Queues an interim response. The caller must run in the task of the connection, which flushes
    /// its writes after it has polled the service.
    pub(crate) fn send(&self, status: StatusCode, reason: &str, headers: &HeaderMap) {
        let mut state = self.responses.state();
        if state.request != self.request {
            return;
        }
        // Writing to a `Vec` cannot fail.
        let _ = write!(state.queued, "HTTP/1.1 {} {reason}\r\n", status.as_str());
        for (name, value) in headers {
            let _ = write!(state.queued, "{name}: ");
            state.queued.extend_from_slice(value.as_bytes());
            state.queued.extend_from_slice(b"\r\n");
        }
        state.queued.extend_from_slice(b"\r\n");
    }
}

/// Writes the interim responses of a connection.
pub(super) struct InterimWriter {
    responses: Arc<InterimResponses>,
    /// Interim responses that are being written. Nothing else may be written before they end.
    writing: Bytes,
}

impl InterimWriter {
    pub(super) fn new(responses: Arc<InterimResponses>) -> Self {
        Self { responses, writing: Bytes::new() }
    }

    /// Writes the queued interim responses. Call this when hyper flushes: then hyper has written
    /// everything that it has buffered.
    pub(super) fn poll_write_queued(
        &mut self,
        io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.writing.is_empty() {
            self.writing = std::mem::take(&mut self.responses.state().queued).into();
        }
        self.poll_finish(io, cx)
    }

    /// Completes the interim responses that are being written. Call this before hyper writes.
    pub(super) fn poll_finish(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.writing.is_empty() {
            let count = ready!(io.as_mut().poll_write(cx, &self.writing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.writing.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use axum::http::HeaderValue;
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    fn send(sender: &InterimSender, value: &'static str) {
        let headers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("name"),
            HeaderValue::from_static(value),
        )]);
        sender.send(StatusCode::PROCESSING, "Processing", &headers);
    }

    #[tokio::test]
    async fn interim_responses_are_written_before_the_final_one() {
        let responses = Arc::new(InterimResponses::default());
        let mut writer = InterimWriter::new(responses.clone());
        let (mut io, mut client) = duplex(16);
        let sender = responses.begin_request();
        send(&sender, "1");
        send(&sender, "2");
        let written = tokio::spawn(async move {
            poll_fn(|cx| writer.poll_write_queued(Pin::new(&mut io), cx)).await.unwrap();
            // Nothing is written twice.
            poll_fn(|cx| writer.poll_write_queued(Pin::new(&mut io), cx)).await.unwrap();
        });
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        written.await.unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 102 Processing\r\nname: 1\r\n\r\nHTTP/1.1 102 Processing\r\nname: 2\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn an_interim_response_that_has_begun_is_finished_first() {
        let responses = Arc::new(InterimResponses::default());
        let mut writer = InterimWriter::new(responses.clone());
        let (mut io, mut client) = duplex(16);
        send(&responses.begin_request(), "1");
        // The client does not read.
        let pending = poll_fn(|cx| Poll::Ready(writer.poll_write_queued(Pin::new(&mut io), cx))).await;
        assert!(pending.is_pending());
        responses.end_request();
        let pending = poll_fn(|cx| Poll::Ready(writer.poll_finish(Pin::new(&mut io), cx))).await;
        assert!(pending.is_pending());
        let finished = tokio::spawn(async move {
            poll_fn(|cx| writer.poll_finish(Pin::new(&mut io), cx)).await.unwrap();
        });
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        finished.await.unwrap();
        assert_eq!(text, "HTTP/1.1 102 Processing\r\nname: 1\r\n\r\n");
    }

    #[tokio::test]
    async fn nothing_is_sent_after_the_final_response() {
        let responses = Arc::new(InterimResponses::default());
        let mut writer = InterimWriter::new(responses.clone());
        let sender = responses.begin_request();
        send(&sender, "1");
        responses.end_request();
        send(&sender, "2");
        let next = responses.begin_request();
        send(&sender, "3");
        let mut io = Vec::new();
        poll_fn(|cx| writer.poll_write_queued(Pin::new(&mut io), cx)).await.unwrap();
        assert!(io.is_empty());
        send(&next, "4");
        poll_fn(|cx| writer.poll_write_queued(Pin::new(&mut io), cx)).await.unwrap();
        assert_eq!(io, b"HTTP/1.1 102 Processing\r\nname: 4\r\n\r\n");
    }
}
