//! Timers for streams and bodies that are polled.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer whose deadline can change with each poll. The underlying timer of tokio is reset only if
/// the new deadline is earlier, or after the underlying timer has fired.
#[derive(Default)]
pub struct DeadlineTimer(Option<Pin<Box<Sleep>>>);

impl DeadlineTimer {
    /// Ready once `deadline` has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            if timer.is_elapsed() || deadline < timer.deadline() {
                if deadline <= Instant::now() {
                    return Poll::Ready(());
                }
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

/// Limits how long each wait for the other side of a transfer can last.
pub struct IdleTimeout {
    timeout: Duration,
    /// Start of the current wait.
    waiting_since: Option<Instant>,
    timer: DeadlineTimer,
}

impl IdleTimeout {
    /// Creates an idle timeout that limits each wait to `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, waiting_since: None, timer: DeadlineTimer::default() }
    }

    /// Call this while the other side is pending. The first call starts a wait. Ready once the wait
    /// has lasted for the timeout.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        self.timer.poll(cx, since + self.timeout)
    }

    /// Call this when the other side made progress. Ends the current wait and returns the duration
    /// of the wait, or zero if there was none.
    pub fn end_wait(&mut self) -> Duration {
        self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::sleep;

    const TIMEOUT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_timer_follows_a_deadline_that_moves() {
        let (start, mut timer) = (Instant::now(), DeadlineTimer::default());
        for secs in [20, 10, 20] {
            let deadline = start + Duration::from_secs(secs);
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, deadline))).await.is_pending());
        }
        poll_fn(|cx| timer.poll(cx, start + TIMEOUT)).await;
        assert!((TIMEOUT..50 * TIMEOUT).contains(&start.elapsed()));
        // The timer has fired. Polling it with a later deadline waits for that deadline.
        poll_fn(|cx| timer.poll(cx, start + 2 * TIMEOUT)).await;
        assert!(start.elapsed() >= 2 * TIMEOUT);
    }

    #[tokio::test]
    async fn an_idle_timeout_counts_each_wait_from_its_start() {
        let mut idle = IdleTimeout::new(TIMEOUT);
        assert_eq!(idle.end_wait(), Duration::ZERO);
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(idle.poll(cx))).await.is_pending());
            sleep(TIMEOUT / 2).await;
            assert!(idle.end_wait() >= TIMEOUT / 2);
            // Time between two waits does not count.
            sleep(TIMEOUT).await;
        }
        let start = Instant::now();
        poll_fn(|cx| idle.poll(cx)).await;
        assert!(start.elapsed() >= TIMEOUT);
    }
}
