//! Idle timeout of a poll-based stream or body.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Limits the duration of each single wait.
pub struct IdleTimeout {
    timeout: Duration,
    /// Created with the first wait: most connections never wait.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl IdleTimeout {
    /// Creates an idle timeout of `timeout` for each wait.
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout, timer: None, waiting: false }
    }

    /// Call this while the other side is pending. Ready when the current wait exceeds the timeout.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + self.timeout);
        }
        timer.as_mut().poll(cx)
    }

    /// Call this when the other side made progress: the next wait starts a new timeout.
    pub fn reset(&mut self) {
        self.waiting = false;
    }
}
