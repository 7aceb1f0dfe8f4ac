//! Timeouts of a connection: for the request head, for idle connections, and for clients that stop
//! reading a response. Hyper has no timeout for the last case, so this module wraps the transport
//! and the response bodies to observe the progress of the client.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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

use super::{MAX_BUFFERED, head_error::HeadErrorResponder, interim::InterimWriter};
use crate::rate_check::MinRateCheck;

/// Timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// Maximum time to receive the head of a request.
    pub(super) head: Duration,
    /// Maximum time without a request.
    pub(super) idle: Duration,
    /// Maximum time in which the client reads no data of a response.
    pub(super) write: Duration,
}

/// The timeout that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutKind {
    /// The head of a request is incomplete.
    Head,
    /// The connection has no request.
    Idle,
    /// The client does not read the response.
    Write,
}

/// State of a connection that determines its timeouts.
pub(super) struct ConnTimeouts {
    state: Mutex<State>,
    /// Whether requests are multiplexed (HTTP/2).
    pub(super) is_multiplexed: Arc<AtomicBool>,
    /// The pending write of an HTTP/1 connection, which sends one response at a time. Not used for
    /// HTTP/2, where each stream has a separate [`PendingWrite`].
    pub(super) pending_write: Arc<PendingWrite>,
}

struct State {
    requests: usize,
    /// Start of the idle timeout. Meaningful only while no request is running.
    idle_since: Instant,
    /// Start of the timeout for a request head that is not complete yet; `None` if there is no such
    /// head. For HTTP/2, only the first head is tracked.
    head_since: Option<Instant>,
    /// Whether part of a response may still have to be written.
    response_pending: bool,
}

impl ConnTimeouts {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        // The timeout for the first head starts with the connection.
        let state = State { requests: 0, idle_since: now, head_since: Some(now), response_pending: false };
        Self { state: Mutex::new(state), is_multiplexed: Arc::default(), pending_write: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.is_multiplexed.load(Ordering::Relaxed)
    }

    /// Records that the head of a request is complete. The request counts as running until the
    /// guard is dropped.
    pub(super) fn begin_request(self: &Arc<Self>, multiplexed: bool) -> RequestGuard {
        let mut state = self.state();
        state.requests += 1;
        state.head_since = None;
        self.is_multiplexed.store(multiplexed, Ordering::Relaxed);
        state.response_pending = true;
        RequestGuard(self.clone())
    }

    /// Restarts the idle timeout.
    pub(super) fn restart_idle(&self) {
        self.state().idle_since = Instant::now();
    }

    /// Whether a write now comes from hyper itself, such as the response to a head that hyper
    /// cannot parse. This is so if every response of the service has been written.
    fn is_unsolicited(&self) -> bool {
        !self.state().response_pending
    }

    fn on_flush(&self) {
        let mut state = self.state();
        state.response_pending &= state.requests > 0;
    }

    fn on_read(&self) {
        let mut state = self.state();
        if state.requests == 0 && state.head_since.is_none() && !self.is_multiplexed() {
            state.head_since = Some(Instant::now());
        }
    }

    fn on_write(&self) {
        let mut state = self.state();
        if state.requests == 0 {
            // This is the end of a response whose body was already dropped.
            state.idle_since = Instant::now();
        } else if let Some(chunk) = &mut *self.pending_write.lock() {
            chunk.last_progress = Instant::now();
        }
    }

    /// Completes when a timeout expires. Await this future only in the task that serves the
    /// connection: most changes of the state wake that task, and the future then computes the
    /// deadline again.
    pub(super) async fn expired(&self, timeouts: Timeouts) -> TimeoutKind {
        let mut timer = DeadlineTimer::default();
        poll_fn(|cx| match self.deadline(timeouts) {
            Some((at, kind)) => timer.poll(cx, at).map(|()| kind),
            None => Poll::Pending,
        })
        .await
    }

    /// Returns the next deadline in the current state, with the timeout that then expires; `None`
    /// if no timeout applies.
    fn deadline(&self, timeouts: Timeouts) -> Option<(Instant, TimeoutKind)> {
        let state = self.state();
        if let Some(at) = self.pending_write.deadline(timeouts.write) {
            return Some((at, TimeoutKind::Write));
        }
        if state.requests > 0 {
            // The end of a request on an HTTP/2 stream does not wake this task. So compute the
            // deadline again after one idle timeout.
            return self.is_multiplexed().then(|| (Instant::now() + timeouts.idle, TimeoutKind::Idle));
        }
        Some(match state.head_since {
            Some(since) => (since + timeouts.head, TimeoutKind::Head),
            None => (state.idle_since + timeouts.idle, TimeoutKind::Idle),
        })
    }
}

/// Counts a request as running until the guard is dropped.
pub(super) struct RequestGuard(Arc<ConnTimeouts>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.idle_since = Instant::now();
    }
}

/// Timing of the response chunk that was handed to hyper most recently; `None` while hyper waits
/// for the next chunk.
#[derive(Default)]
pub(super) struct PendingWrite(Mutex<Option<Chunk>>);

#[derive(Clone, Copy)]
struct Chunk {
    since: Instant,
    /// Time of the latest write to the connection, which shows that the client reads. On HTTP/2,
    /// this is `since`, because the progress of a single stream is not visible.
    last_progress: Instant,
    /// Minimum time to allow for the chunk on HTTP/2, where progress is not visible; zero on
    /// HTTP/1.
    min_time: Duration,
    /// Maximum time for the chunk, even with progress; `None` if there is no minimum rate.
    max_time: Option<Duration>,
}

impl PendingWrite {
    fn lock(&self) -> MutexGuard<'_, Option<Chunk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time at which the client counts as stalled; `None` if no chunk is pending.
    fn deadline(&self, timeout: Duration) -> Option<Instant> {
        let chunk = (*self.lock())?;
        let stalled_at = (chunk.last_progress + timeout).max(chunk.since + chunk.min_time);
        Some(chunk.max_time.map_or(stalled_at, |max| stalled_at.min(chunk.since + max)))
    }

    /// Completes when the client has stalled. Await this future only in the task that sends the
    /// response.
    pub(super) async fn stalled(&self, timeout: Duration) {
        let mut timer = DeadlineTimer::default();
        poll_fn(|cx| match self.deadline(timeout) {
            Some(at) => timer.poll(cx, at),
            None => Poll::Pending,
        })
        .await;
    }
}

/// A response body that fails if the client reads below the minimum rate. Time in which the body
/// itself has no data does not count.
pub(super) struct MinRateBody {
    body: Body,
    pending_write: Arc<PendingWrite>,
    rate_check: MinRateCheck,
    /// Size of the latest chunk, in bytes.
    chunk_len: u64,
    multiplexed: bool,
    _request: RequestGuard,
}

#[derive(Debug, thiserror::Error)]
#[error("the client read the response more slowly than the minimum rate")]
struct ReadTooSlow;

impl MinRateBody {
    pub(super) fn new(
        body: Body,
        pending_write: Arc<PendingWrite>,
        rate_check: MinRateCheck,
        multiplexed: bool,
        request: RequestGuard,
    ) -> Self {
        Self { body, pending_write, rate_check, chunk_len: 0, multiplexed, _request: request }
    }

    fn record_chunk(&mut self, bytes: u64) {
        self.chunk_len = bytes;
        let now = Instant::now();
        // The progress of a single HTTP/2 stream is not visible.
        let min_time = if self.multiplexed { self.rate_check.time_for(bytes) } else { Duration::ZERO };
        let max_time = self.rate_check.max_time_for(bytes + MAX_BUFFERED as u64);
        *self.pending_write.lock() = Some(Chunk { since: now, last_progress: now, min_time, max_time });
    }
}

impl http_body::Body for MinRateBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Hyper polls for the next chunk only when its buffer has room, so the client counts as
        // having read the previous chunk.
        let drained = self.pending_write.lock().take();
        if let Some(chunk) = drained {
            let bytes = self.chunk_len;
            if !self.rate_check.record(chunk.since.elapsed(), bytes) {
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

impl Drop for MinRateBody {
    fn drop(&mut self) {
        *self.pending_write.lock() = None;
    }
}

/// The transport of a connection. Reports reads, writes and flushes to `timeouts`.
pub(super) struct ObservedIo<I> {
    pub(super) io: I,
    pub(super) timeouts: Arc<ConnTimeouts>,
    pub(super) head_error: HeadErrorResponder,
    pub(super) interim_writer: InterimWriter,
}

impl<I> ObservedIo<I> {
    fn on_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.timeouts.on_write();
        }
        written
    }
}

impl<I: AsyncWrite + Unpin> ObservedIo<I> {
    fn poll_finish_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.interim_writer.poll_finish(Pin::new(&mut self.io), cx)
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
        ready!(self.poll_finish_interim(cx))?;
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
        ready!(self.poll_finish_interim(cx))?;
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
        let this = &mut *self;
        ready!(this.interim_writer.poll_write_queued(Pin::new(&mut this.io), cx))?;
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

    const PAUSE: Duration = Duration::from_millis(70);

    /// A response of ten one-byte chunks. Each chunk is available after `pause`; the minimum rate
    /// is a million bytes per second.
    fn body(pause: Duration) -> MinRateBody {
        let bytes = stream::unfold(0, move |count| async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            (count < 10).then(|| (Ok::<_, axum::Error>(Bytes::from_static(b"x")), count + 1))
        });
        let rate_check = MinRateCheck::new(1_000_000, Duration::from_millis(100));
        let request = Arc::new(ConnTimeouts::new()).begin_request(false);
        MinRateBody::new(Body::from_stream(bytes), Arc::default(), rate_check, false, request)
    }

    #[tokio::test]
    async fn a_slow_source_does_not_fail_the_response() {
        let response = body(PAUSE).collect().await.unwrap();
        assert_eq!(response.to_bytes().len(), 10);
    }

    #[tokio::test]
    async fn a_slow_client_fails_the_response() {
        let mut response = body(Duration::ZERO);
        let mut count = 0;
        while let Some(Ok(_)) = response.frame().await {
            count += 1;
            sleep(PAUSE).await;
        }
        assert!((1..=3).contains(&count), "{count}");
    }

    #[tokio::test]
    async fn the_state_of_a_connection_selects_its_timeout() {
        let limits = Timeouts {
            head: Duration::from_millis(50),
            idle: Duration::from_millis(150),
            write: Duration::from_mins(1),
        };
        let timeouts = Arc::new(ConnTimeouts::new());
        assert_eq!(timeouts.expired(limits).await, TimeoutKind::Head);
        let request = timeouts.begin_request(false);
        let expired = tokio::time::timeout(Duration::from_millis(300), timeouts.expired(limits)).await;
        assert!(expired.is_err(), "a request runs");
        drop(request);
        assert_eq!(timeouts.expired(limits).await, TimeoutKind::Idle);
        timeouts.on_read();
        let start = Instant::now();
        assert_eq!(timeouts.expired(Timeouts { idle: Duration::ZERO, ..limits }).await, TimeoutKind::Head);
        assert!(start.elapsed() >= limits.head);
    }
}
