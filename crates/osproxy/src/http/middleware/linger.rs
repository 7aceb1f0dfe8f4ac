use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::idle::Idle;

/// How many bytes of a refused body are still read, so that its sender gets to see the answer.
const MAX_BYTES: u64 = 16 << 20;
/// For how long.
const MAX_TIME: Duration = Duration::from_secs(5);

/// The body of a request. When nobody wants the rest of it, the rest is read and thrown away for a while: closing a
/// connection on a client that is still sending would destroy the answer that tells it why.
pub(super) struct LingeringBody {
    body: Body,
    received: Arc<AtomicU64>,
    /// Nothing more is to come: the connection broke, or the client waits to be asked and never was.
    silent: bool,
    idle: Idle,
}

/// Says why a body ended.
#[derive(Debug, thiserror::Error)]
#[error("the client has sent nothing for too long")]
struct TooSlow;

impl LingeringBody {
    /// The body of a request with these headers, which breaks off when nothing comes for `timeout`.
    pub(super) fn new(body: Body, headers: &HeaderMap, timeout: Duration) -> Self {
        // Reading from such a client would ask it to send.
        let silent = headers.contains_key(header::EXPECT);
        let idle = Idle::new(timeout);
        Self { body, received: Arc::default(), silent, idle }
    }

    /// Counts the bytes that were read.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }
}

impl http_body::Body for LingeringBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.silent = false;
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.idle.poll(cx));
            self.silent = true;
            return Poll::Ready(Some(Err(axum::Error::new(TooSlow))));
        };
        self.idle.stir();
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                self.received.fetch_add(bytes, Ordering::Relaxed);
            }
            Some(Err(_)) | None => self.silent = true,
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

impl Drop for LingeringBody {
    fn drop(&mut self) {
        if self.silent || self.body.is_end_stream() {
            return;
        }
        let mut body = std::mem::take(&mut self.body);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(MAX_TIME, async move {
                let mut bytes = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    if bytes > MAX_BYTES {
                        break;
                    }
                }
            }));
        }
    }
}
