use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderMap, Version, header},
};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::{http::pace::Pace, idle::Idle};

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
    pace: Pace,
    /// Whether the client must say that it is all, as with HTTP/2: a stream that is reset without an error is not.
    must_end: bool,
    /// Since when the client is waited for. Whoever reads a body waits for nothing else meanwhile.
    waiting: Option<Instant>,
}

/// Says why a body ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(in crate::http) enum TooSlow {
    #[error("the client has sent nothing for too long")]
    Silent,
    #[error("the client sends too slowly")]
    Slow,
}

/// A stream that ended, and was not said to be all.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the stream was reset")]
struct Reset;

impl LingeringBody {
    /// The body of a request with this head, which breaks off when nothing comes for `timeout`, or too little.
    pub(super) fn new(body: Body, head: (Version, &HeaderMap), timeout: Duration, pace: Pace) -> Self {
        let (version, headers) = head;
        // Reading from such a client would ask it to send.
        let silent = headers.contains_key(header::EXPECT);
        let idle = Idle::new(timeout);
        let must_end = version == Version::HTTP_2;
        Self { body, received: Arc::default(), silent, idle, pace, must_end, waiting: None }
    }

    fn give_up(&mut self, why: TooSlow) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.silent = true;
        Poll::Ready(Some(Err(axum::Error::new(why))))
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
            self.waiting.get_or_insert_with(Instant::now);
            ready!(self.idle.poll(cx));
            return self.give_up(TooSlow::Silent);
        };
        self.idle.stir();
        let waited = self.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            if !self.pace.keeps(waited, bytes) {
                return self.give_up(TooSlow::Slow);
            }
        }
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                self.received.fetch_add(bytes, Ordering::Relaxed);
            }
            Some(Err(_)) | None => self.silent = true,
        }
        if frame.is_none() && self.must_end && !self.body.is_end_stream() {
            return Poll::Ready(Some(Err(axum::Error::new(Reset))));
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tokio::time::sleep;

    const WINDOW: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_millis(70);

    /// A body of ten bytes, each after this time, whose client must send a million in a second.
    fn body(pause: Duration) -> LingeringBody {
        let bytes = stream::unfold(0, move |count| async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            (count < 10).then(|| (Ok::<_, axum::Error>(Bytes::from_static(b"x")), count + 1))
        });
        let pace = Pace::new(1_000_000, WINDOW);
        let head = (Version::HTTP_11, &HeaderMap::new());
        LingeringBody::new(Body::from_stream(bytes), head, Duration::from_mins(1), pace)
    }

    #[tokio::test]
    async fn a_store_that_is_slow_is_no_fault_of_the_sender() {
        let mut body = body(Duration::ZERO);
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            frame.unwrap();
            count += 1;
            // What is done with it.
            sleep(LONG).await;
        }
        assert_eq!(count, 10);
    }

    #[tokio::test]
    async fn a_sender_that_is_waited_for_is() {
        let mut body = body(LONG);
        let mut count = 0;
        while let Some(Ok(_)) = body.frame().await {
            count += 1;
        }
        assert!((1..=3).contains(&count), "{count}");
    }
}
