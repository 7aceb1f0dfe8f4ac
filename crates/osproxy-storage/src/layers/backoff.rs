use std::time::Duration;

/// Growing pauses between attempts, each shortened by chance, so that those who failed together do not meet again.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Duration::from_millis(100) }
    }
}

impl Backoff {
    /// Waits for a half to the whole of the next pause, and doubles it.
    pub async fn pause(&mut self) {
        let mut chance = [0];
        // Without chance the pause is just longer.
        let _ = getrandom::fill(&mut chance);
        let pause = self.next.mul_f64(1.0 - f64::from(chance[0]) / 512.0);
        self.next = (self.next * 2).min(LONGEST);
        tokio::time::sleep(pause).await;
    }
}
