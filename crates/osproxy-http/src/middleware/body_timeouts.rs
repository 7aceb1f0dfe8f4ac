//! Request bodies with timeouts. A body that the handler does not read to its end is drained.

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
    http::{Version, header, request::Parts},
};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use osproxy_cluster::timers::IdleTimeout;

use crate::rate_check::MinRateCheck;

/// Maximum number of bytes to drain from an unread body.
const MAX_DRAIN_BYTES: u64 = 16 << 20;
/// Maximum time for draining an unread body.
const MAX_DRAIN_TIME: Duration = Duration::from_secs(5);

/// A request body that fails when the client is too slow. If the body is dropped before its end, a
/// task drains the rest, within limits. Without draining, the connection would be closed while the
/// client is still sending, and the client could lose the response.
pub(super) struct DrainOnDropBody {
    body: Body,
    received: Arc<AtomicU64>,
    /// Whether there is nothing to drain: the body has ended or failed, or nothing was read and the
    /// client still waits for `100 Continue`.
    nothing_to_drain: bool,
    idle: IdleTimeout,
    rate_check: MinRateCheck,
    /// Whether the body must have an explicit end, as in HTTP/2. A stream that the client reset
    /// without an error has no such end.
    requires_end: bool,
}

/// How the client was too slow.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum TooSlow {
    #[error("the client sent no data for too long")]
    Idle,
    #[error("the client sent less than the minimum rate")]
    BelowMinRate,
}

/// Error for an HTTP/2 stream that ended without an explicit end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the stream was reset")]
struct StreamReset;

impl DrainOnDropBody {
    /// Wraps the body of the request with this `head`. Reading fails with [`TooSlow`] if no data
    /// arrives for `timeout`, or if the client fails `rate_check`. Counts the bytes that were read
    /// in `received`.
    pub(super) fn new(
        body: Body,
        head: &Parts,
        timeout: Duration,
        rate_check: MinRateCheck,
        received: Arc<AtomicU64>,
    ) -> Self {
        Self {
            body,
            received,
            // A client that waits for `100 Continue` has sent no body yet. Hyper sends `100
            // Continue` when the service begins to read the body.
            nothing_to_drain: head.headers.contains_key(header::EXPECT),
            idle: IdleTimeout::new(timeout),
            rate_check,
            requires_end: head.version == Version::HTTP_2,
        }
    }

    fn fail(&mut self, error: TooSlow) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.nothing_to_drain = true;
        Poll::Ready(Some(Err(axum::Error::new(error))))
    }
}

impl http_body::Body for DrainOnDropBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.nothing_to_drain = false;
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.idle.poll(cx));
            return self.fail(TooSlow::Idle);
        };
        let waited = self.idle.end_wait();
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                if !self.rate_check.record(waited, bytes) {
                    return self.fail(TooSlow::BelowMinRate);
                }
                self.received.fetch_add(bytes, Ordering::Relaxed);
            }
            Some(Err(_)) | None => self.nothing_to_drain = true,
        }
        if frame.is_none() && self.requires_end && !self.body.is_end_stream() {
            return Poll::Ready(Some(Err(axum::Error::new(StreamReset))));
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

impl Drop for DrainOnDropBody {
    fn drop(&mut self) {
        if self.nothing_to_drain || self.body.is_end_stream() {
            return;
        }
        let mut body = std::mem::take(&mut self.body);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(MAX_DRAIN_TIME, async move {
                let mut bytes = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    if bytes > MAX_DRAIN_BYTES {
                        break;
                    }
                }
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use futures_util::stream;
    use tokio::time::sleep;

    const WINDOW: Duration = Duration::from_millis(100);
    const PAUSE: Duration = Duration::from_millis(70);

    /// A body of ten one-byte chunks. Each chunk arrives after `pause`; the minimum rate is a
    /// million bytes per second.
    fn body(pause: Duration) -> DrainOnDropBody {
        let bytes = stream::unfold(0, move |count| async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            (count < 10).then(|| (Ok::<_, axum::Error>(Bytes::from_static(b"x")), count + 1))
        });
        let (head, ()) = Request::new(()).into_parts();
        let rate_check = MinRateCheck::new(1_000_000, WINDOW);
        DrainOnDropBody::new(
            Body::from_stream(bytes),
            &head,
            Duration::from_mins(1),
            rate_check,
            Arc::default(),
        )
    }

    #[tokio::test]
    async fn a_slow_reader_does_not_fail_the_body() {
        let mut body = body(Duration::ZERO);
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            frame.unwrap();
            count += 1;
            sleep(PAUSE).await;
        }
        assert_eq!(count, 10);
    }

    #[tokio::test]
    async fn a_slow_client_fails_the_body() {
        let mut body = body(PAUSE);
        let mut count = 0;
        while let Some(Ok(_)) = body.frame().await {
            count += 1;
        }
        assert!((1..=3).contains(&count), "{count}");
    }
}
