//! Ends the wait for somebody who does nothing.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// A time-out of each single wait.
pub(crate) struct Idle {
    timeout: Duration,
    /// Made with the first wait: most never wait.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Idle {
    /// Lets every wait take so long.
    pub(crate) const fn new(timeout: Duration) -> Self {
        Self { timeout, timer: None, waiting: false }
    }

    /// To be called while the other side is waited for. Ready when that has taken too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + self.timeout);
        }
        timer.as_mut().poll(cx)
    }

    /// To be called when something has come: the next wait is another one.
    pub(crate) fn stir(&mut self) {
        self.waiting = false;
    }
}
