use std::time::Duration;

/// Exponential backoff with jitter, so that callers that failed together do not retry together.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

/// Maximum pause.
const LONGEST: Duration = Duration::from_secs(5);

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Duration::from_millis(100) }
    }
}

impl Backoff {
    /// Sleeps for 50 to 100 % of the next pause, then doubles it.
    pub async fn pause(&mut self) {
        let mut jitter = [0];
        // Without randomness there is no jitter, which is harmless.
        let _ = getrandom::fill(&mut jitter);
        let pause = self.next.mul_f64(1.0 - f64::from(jitter[0]) / 512.0);
        self.next = (self.next * 2).min(LONGEST);
        tokio::time::sleep(pause).await;
    }
}
