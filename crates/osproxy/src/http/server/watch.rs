//! What a connection is at, so that nobody holds one for nothing.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{MAX_BUFFERED, refusal::Refusal};
use crate::http::pace::Pace;

/// How long somebody may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// To send the head of a request.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// To take something of an answer.
    pub(super) write: Duration,
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapse {
    /// The head of a request does not end.
    Head,
    /// There was no request for too long.
    Idle,
    /// Nothing of an answer is taken.
    Write,
}

/// What a connection is at.
pub(super) struct Watch {
    state: Mutex<State>,
    /// Of the one answer that HTTP/1 has at a time.
    pub(super) taking: Arc<Taking>,
}

struct State {
    requests: usize,
    /// When there was something last, where there is no request.
    since: Instant,
    /// When the head began that has not ended. With HTTP/2 nobody knows.
    head: Option<Instant>,
    multiplexed: bool,
    /// Whether there was a request whose answer may not be written yet.
    answering: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        // The first request is awaited from the beginning.
        let state = State { requests: 0, since: now, head: Some(now), multiplexed: false, answering: false };
        Self { state: Mutex::new(state), taking: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests run side by side.
    pub(super) fn is_multiplexed(&self) -> bool {
        self.state().multiplexed
    }

    /// To be called when the head of a request has come. The request lasts until what is returned is dropped.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> Running {
        let mut state = self.state();
        state.requests += 1;
        state.head = None;
        state.multiplexed = multiplexed;
        state.answering = true;
        Running(self.clone())
    }

    /// Lets the time between two requests begin anew.
    pub(super) fn renew(&self) {
        self.state().since = Instant::now();
    }

    /// Whether what is written now belongs to no request: it is hyper's own answer to a head that it cannot read.
    fn is_unasked(&self) -> bool {
        !self.state().answering
    }

    fn flushed(&self) {
        let mut state = self.state();
        state.answering &= state.requests > 0;
    }

    fn came(&self) {
        let mut state = self.state();
        if state.requests == 0 && state.head.is_none() && !state.multiplexed {
            state.head = Some(Instant::now());
        }
    }

    fn went(&self) {
        let mut state = self.state();
        if state.requests == 0 {
            // The end of an answer that is not of the store any more.
            state.since = Instant::now();
        } else if let Some(handed) = &mut *self.taking.handed() {
            handed.moved = Instant::now();
        }
    }

    /// Ends when the connection is to be given up. To be awaited by the task that serves the connection: what changes is
    /// seen because the task is then awake.
    pub(super) async fn lapse(&self, patience: Patience) -> Lapse {
        let mut alarm = Alarm::default();
        poll_fn(|cx| match self.deadline(patience) {
            Some((at, lapse)) => alarm.poll(cx, at).map(|()| lapse),
            None => Poll::Pending,
        })
        .await
    }

    /// When the connection is to be given up, if nothing changes, and why then.
    fn deadline(&self, patience: Patience) -> Option<(Instant, Lapse)> {
        let state = self.state();
        if let Some(at) = self.taking.deadline(patience.write) {
            return Some((at, Lapse::Write));
        }
        if state.requests > 0 {
            // The end of a request on one of many streams wakes nobody here.
            return state.multiplexed.then(|| (Instant::now() + patience.idle, Lapse::Idle));
        }
        Some(match state.head {
            Some(begun) => (begun + patience.head, Lapse::Head),
            None => (state.since + patience.idle, Lapse::Idle),
        })
    }
}

/// A timer that is set anew only when it must go off earlier than it would.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when it is so late.
    fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        loop {
            if timer.is_elapsed() || at < timer.deadline() {
                if at <= Instant::now() {
                    return Poll::Ready(());
                }
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

/// A request that runs.
pub(super) struct Running(Arc<Watch>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.since = Instant::now();
    }
}

/// What the client has to take of an answer, and was not asked for more.
#[derive(Default)]
pub(super) struct Taking(Mutex<Option<Handed>>);

#[derive(Clone, Copy)]
struct Handed {
    since: Instant,
    /// When something of it went last, where that can be seen.
    moved: Instant,
    /// How long it may take at the least, where that cannot be seen.
    fair: Duration,
    /// How long it may take however much of it goes.
    longest: Option<Duration>,
}

impl Taking {
    fn handed(&self) -> MutexGuard<'_, Option<Handed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When what was handed over has not been taken for too long.
    fn deadline(&self, patience: Duration) -> Option<Instant> {
        let handed = (*self.handed())?;
        let stalled = (handed.moved + patience).max(handed.since + handed.fair);
        Some(handed.longest.map_or(stalled, |longest| stalled.min(handed.since + longest)))
    }

    /// Ends when an answer is taken too slowly. To be awaited by the task that sends it.
    pub(super) async fn stalls(&self, patience: Duration) {
        let mut alarm = Alarm::default();
        poll_fn(|cx| match self.deadline(patience) {
            Some(at) => alarm.poll(cx, at),
            None => Poll::Pending,
        })
        .await;
    }
}

/// An answer's body, which knows how fast it is taken. What it takes to get its data does not count.
pub(super) struct Paced {
    body: Body,
    taking: Arc<Taking>,
    pace: Pace,
    /// How much was handed over last.
    handed: u64,
    multiplexed: bool,
    _running: Running,
}

/// Says why an answer ended.
#[derive(Debug, thiserror::Error)]
#[error("the client takes the answer too slowly")]
struct TooSlow;

impl Paced {
    pub(super) fn new(
        body: Body,
        taking: Arc<Taking>,
        pace: Pace,
        multiplexed: bool,
        running: Running,
    ) -> Self {
        Self { body, taking, pace, handed: 0, multiplexed, _running: running }
    }

    fn hand_over(&mut self, bytes: u64) {
        self.handed = bytes;
        let now = Instant::now();
        // Of what is handed over on one of many streams nobody sees how it goes.
        let fair = if self.multiplexed { self.pace.time(bytes) } else { Duration::ZERO };
        let longest = self.pace.longest(bytes + MAX_BUFFERED as u64);
        *self.taking.handed() = Some(Handed { since: now, moved: now, fair, longest });
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Whoever asks for more has room for it.
        let taken = self.taking.handed().take();
        if let Some(taken) = taken {
            let bytes = self.handed;
            if !self.pace.keeps(taken.since.elapsed(), bytes) {
                self.body = Body::empty();
                return Poll::Ready(Some(Err(axum::Error::new(TooSlow))));
            }
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.hand_over(frame.data_ref().map_or(0, |bytes| bytes.len() as u64));
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

impl Drop for Paced {
    fn drop(&mut self) {
        *self.taking.handed() = None;
    }
}

/// A connection's bytes, which say that they come and go.
pub(super) struct Watched<I> {
    pub(super) io: I,
    pub(super) watch: Arc<Watch>,
    pub(super) refusal: Refusal,
}

impl<I> Watched<I> {
    fn went(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.watch.went();
        }
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.watch.came();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.watch.is_unasked() && Refusal::replaces(bytes) {
            let this = &mut *self;
            let written = this.refusal.poll_write(Pin::new(&mut this.io), cx, bytes);
            return this.went(written.map_ok(|()| bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.went(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.watch.is_unasked()
            && let [bytes] = bytes
            && Refusal::replaces(bytes)
        {
            return self.poll_write(cx, bytes);
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.went(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.watch.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        let this = &mut *self;
        this.refusal.poll_drain(Pin::new(&mut this.io), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    const LONG: Duration = Duration::from_millis(70);

    /// An answer of ten bytes, each after this time, of which a million must be taken in a second.
    fn answer(pause: Duration) -> Paced {
        let bytes = stream::unfold(0, move |count| async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            (count < 10).then(|| (Ok::<_, axum::Error>(Bytes::from_static(b"x")), count + 1))
        });
        let pace = Pace::new(1_000_000, Duration::from_millis(100));
        let running = Arc::new(Watch::new()).request(false);
        Paced::new(Body::from_stream(bytes), Arc::default(), pace, false, running)
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
        let patience = Patience {
            head: Duration::from_millis(50),
            idle: Duration::from_millis(150),
            write: Duration::from_mins(1),
        };
        let watch = Arc::new(Watch::new());
        assert_eq!(watch.lapse(patience).await, Lapse::Head);
        let running = watch.request(false);
        let waited = tokio::time::timeout(Duration::from_millis(300), watch.lapse(patience)).await;
        assert!(waited.is_err(), "a request runs");
        drop(running);
        assert_eq!(watch.lapse(patience).await, Lapse::Idle);
        watch.came();
        let start = Instant::now();
        assert_eq!(watch.lapse(Patience { idle: Duration::ZERO, ..patience }).await, Lapse::Head);
        assert!(start.elapsed() >= patience.head);
    }
}
