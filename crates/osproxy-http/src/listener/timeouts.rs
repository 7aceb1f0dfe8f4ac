//! Timeouts of a connection: request head, idle time, and the progress of the client in reading a
//! response. Hyper has no timeout for the last one, so the transport and the response bodies are
//! wrapped to observe it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use osproxy_cluster::timers::DeadlineTimer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{MAX_BUFFERED, head_error::HeadErrorResponder};
use crate::middleware::minimum_rate::RateLimiter;

/// Timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// To receive the head of a request.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// For the client to read any data of a response.
    pub(super) write: Duration,
}

/// The timeout that ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutKind {
    /// The head of a request is incomplete.
    Head,
    /// There is no request.
    Idle,
    /// The client does not read the response.
    Write,
}

/// The state of a connection that its timeouts depend on.
pub(super) struct ConnTimeouts {
    state: Mutex<State>,
    /// Progress of the response of HTTP/1, which has one at a time.
    pub(super) pending_write: Arc<PendingWrite>,
}

struct State {
    requests: usize,
    /// Last activity, while there is no request.
    idle_since: Instant,
    /// Start of the incomplete head. Unknown with HTTP/2.
    head_since: Option<Instant>,
    multiplexed: bool,
    /// Whether a response may not be completely written yet.
    response_pending: bool,
}

impl ConnTimeouts {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        // The timeout of the first head starts with the connection.
        let state = State {
            requests: 0,
            idle_since: now,
            head_since: Some(now),
            multiplexed: false,
            response_pending: false,
        };
        Self { state: Mutex::new(state), pending_write: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests are multiplexed (HTTP/2).
    pub(super) fn is_multiplexed(&self) -> bool {
        self.state().multiplexed
    }

    /// Records that the head of a request is complete. The request runs until the guard is dropped.
    pub(super) fn begin_request(self: &Arc<Self>, multiplexed: bool) -> RequestGuard {
        let mut state = self.state();
        state.requests += 1;
        state.head_since = None;
        state.multiplexed = multiplexed;
        state.response_pending = true;
        RequestGuard(self.clone())
    }

    /// Restarts the idle timeout.
    pub(super) fn restart_idle(&self) {
        self.state().idle_since = Instant::now();
    }

    /// Whether a write belongs to no request: hyper responds to a head that it cannot parse.
    fn is_unsolicited(&self) -> bool {
        !self.state().response_pending
    }

    fn on_flush(&self) {
        let mut state = self.state();
        state.response_pending &= state.requests > 0;
    }

    fn on_read(&self) {
        let mut state = self.state();
        if state.requests == 0 && state.head_since.is_none() && !state.multiplexed {
            state.head_since = Some(Instant::now());
        }
    }

    fn on_write(&self) {
        let mut state = self.state();
        if state.requests == 0 {
            // The tail of a response whose body was already dropped.
            state.idle_since = Instant::now();
        } else if let Some(handed) = &mut *self.pending_write.lock() {
            handed.last_progress = Instant::now();
        }
    }

    /// Completes when a timeout expires. Must be awaited by the task that serves the connection:
    /// every change of the state wakes that task, so the deadline is then computed again.
    pub(super) async fn expired(&self, timeouts: Timeouts) -> TimeoutKind {
        let mut alarm = DeadlineTimer::default();
        poll_fn(|cx| match self.deadline(timeouts) {
            Some((at, lapse)) => alarm.poll(cx, at).map(|()| lapse),
            None => Poll::Pending,
        })
        .await
    }

    /// Returns the next deadline in the current state, and its timeout.
    fn deadline(&self, timeouts: Timeouts) -> Option<(Instant, TimeoutKind)> {
        let state = self.state();
        if let Some(at) = self.pending_write.deadline(timeouts.write) {
            return Some((at, TimeoutKind::Write));
        }
        if state.requests > 0 {
            // The end of a request on an HTTP/2 stream does not wake this task, so check again
            // after one idle timeout.
            return state.multiplexed.then(|| (Instant::now() + timeouts.idle, TimeoutKind::Idle));
        }
        Some(match state.head_since {
            Some(begun) => (begun + timeouts.head, TimeoutKind::Head),
            None => (state.idle_since + timeouts.idle, TimeoutKind::Idle),
        })
    }
}

/// Guard of a running request.
pub(super) struct RequestGuard(Arc<ConnTimeouts>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.idle_since = Instant::now();
    }
}

/// The last chunk handed to hyper, until the client has drained it.
#[derive(Default)]
pub(super) struct PendingWrite(Mutex<Option<Chunk>>);

#[derive(Clone, Copy)]
struct Chunk {
    since: Instant,
    /// When the client last read data. Updated on HTTP/1 only: HTTP/2 does not show the progress of
    /// a stream.
    last_progress: Instant,
    /// Minimum time to allow for the chunk on HTTP/2, where progress is not visible.
    min_time: Duration,
    /// Maximum time for the chunk even with progress, given by the minimum rate.
    max_time: Option<Duration>,
}

impl PendingWrite {
    fn lock(&self) -> MutexGuard<'_, Option<Chunk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the client counts as stalled; `None` if it has no chunk to read.
    fn deadline(&self, timeout: Duration) -> Option<Instant> {
        let handed = (*self.lock())?;
        let stalled = (handed.last_progress + timeout).max(handed.since + handed.min_time);
        Some(handed.max_time.map_or(stalled, |longest| stalled.min(handed.since + longest)))
    }

    /// Completes when the client has stalled. Must be awaited by the task that sends the response.
    pub(super) async fn stalled(&self, timeout: Duration) {
        let mut alarm = DeadlineTimer::default();
        poll_fn(|cx| match self.deadline(timeout) {
            Some(at) => alarm.poll(cx, at),
            None => Poll::Pending,
        })
        .await;
    }
}

/// A response body that fails if the client reads below the minimum rate. Time spent waiting for
/// the data itself does not count.
pub(super) struct RateLimitedBody {
    body: Body,
    pending_write: Arc<PendingWrite>,
    rate_limiter: RateLimiter,
    /// Size of the last chunk, in bytes.
    chunk_len: u64,
    multiplexed: bool,
    _running: RequestGuard,
}

#[derive(Debug, thiserror::Error)]
#[error("the client read the response below the minimum rate")]
struct ReadTooSlow;

impl RateLimitedBody {
    pub(super) fn new(
        body: Body,
        taking: Arc<PendingWrite>,
        pace: RateLimiter,
        multiplexed: bool,
        running: RequestGuard,
    ) -> Self {
        Self { body, pending_write: taking, rate_limiter: pace, chunk_len: 0, multiplexed, _running: running }
    }

    fn record_chunk(&mut self, bytes: u64) {
        self.chunk_len = bytes;
        let now = Instant::now();
        // The progress of a single HTTP/2 stream is not visible.
        let fair = if self.multiplexed { self.rate_limiter.time_for(bytes) } else { Duration::ZERO };
        let longest = self.rate_limiter.max_time_for(bytes + MAX_BUFFERED as u64);
        *self.pending_write.lock() =
            Some(Chunk { since: now, last_progress: now, min_time: fair, max_time: longest });
    }
}

impl http_body::Body for RateLimitedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Hyper polls for more, so it has room: the last chunk is drained.
        let taken = self.pending_write.lock().take();
        if let Some(taken) = taken {
            let bytes = self.chunk_len;
            if !self.rate_limiter.record(taken.since.elapsed(), bytes) {
                self.body = Body::empty();
                return Poll::Ready(Some(Err(axum::Error::new(ReadTooSlow))));
            }
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.record_chunk(frame.data_ref().map_or(0, |bytes| bytes.len() as u64));
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

impl Drop for RateLimitedBody {
    fn drop(&mut self) {
        *self.pending_write.lock() = None;
    }
}

/// The transport of a connection; reports reads and writes to its `ConnTimeouts`.
pub(super) struct ObservedIo<I> {
    pub(super) io: I,
    pub(super) timeouts: Arc<ConnTimeouts>,
    pub(super) head_error: HeadErrorResponder,
}

impl<I> ObservedIo<I> {
    fn on_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.timeouts.on_write();
        }
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for ObservedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.timeouts.on_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ObservedIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.timeouts.is_unsolicited() && HeadErrorResponder::is_hyper_response(bytes) {
            let this = &mut *self;
            let written = this.head_error.poll_write(Pin::new(&mut this.io), cx, bytes);
            return this.on_write(written.map_ok(|()| bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.on_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.timeouts.is_unsolicited()
            && let [bytes] = bytes
            && HeadErrorResponder::is_hyper_response(bytes)
        {
            return self.poll_write(cx, bytes);
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.on_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.timeouts.on_flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        let this = &mut *self;
        this.head_error.poll_drain(Pin::new(&mut this.io), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    const LONG: Duration = Duration::from_millis(70);

    /// A response of ten bytes, each after `pause`, with a minimum rate of a million bytes per
    /// second.
    fn answer(pause: Duration) -> RateLimitedBody {
        let bytes = stream::unfold(0, move |count| async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            (count < 10).then(|| (Ok::<_, axum::Error>(Bytes::from_static(b"x")), count + 1))
        });
        let pace = RateLimiter::new(1_000_000, Duration::from_millis(100));
        let running = Arc::new(ConnTimeouts::new()).begin_request(false);
        RateLimitedBody::new(Body::from_stream(bytes), Arc::default(), pace, false, running)
    }

    #[tokio::test]
    async fn a_store_that_is_slow_is_no_fault_of_the_reader() {
        let answer = answer(LONG).collect().await.unwrap();
        assert_eq!(answer.to_bytes().len(), 10);
    }

    #[tokio::test]
    async fn a_reader_that_is_waited_for_is() {
        let mut answer = answer(Duration::ZERO);
        let mut count = 0;
        while let Some(Ok(_)) = answer.frame().await {
            count += 1;
            sleep(LONG).await;
        }
        assert!((1..=3).contains(&count), "{count}");
    }

    #[tokio::test]
    async fn what_holds_a_connection_is_told_apart() {
        let patience = Timeouts {
            head: Duration::from_millis(50),
            idle: Duration::from_millis(150),
            write: Duration::from_mins(1),
        };
        let watch = Arc::new(ConnTimeouts::new());
        assert_eq!(watch.expired(patience).await, TimeoutKind::Head);
        let running = watch.begin_request(false);
        let waited = tokio::time::timeout(Duration::from_millis(300), watch.expired(patience)).await;
        assert!(waited.is_err(), "a request runs");
        drop(running);
        assert_eq!(watch.expired(patience).await, TimeoutKind::Idle);
        watch.on_read();
        let start = Instant::now();
        assert_eq!(watch.expired(Timeouts { idle: Duration::ZERO, ..patience }).await, TimeoutKind::Head);
        assert!(start.elapsed() >= patience.head);
    }
}
