//! Limits on the attempts of all endpoints together.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Maximum number of concurrent attempts of endpoints that answer quickly.
const MAX_ATTEMPTS: usize = 1024;
/// Maximum number of concurrent attempts of endpoints that failed or were slow in their latest
/// attempt. They have separate slots, so that they do not hold up the others.
const MAX_SUSPECT_ATTEMPTS: usize = 256;

/// Slots for attempts.
pub(super) struct Slots {
    healthy: Semaphore,
    suspect: Semaphore,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { healthy: Semaphore::new(MAX_ATTEMPTS), suspect: Semaphore::new(MAX_SUSPECT_ATTEMPTS) }
    }

    /// Waits for a slot. It is free again when the permit is dropped.
    pub(super) async fn acquire(&self, is_suspect: bool) -> Option<SemaphorePermit<'_>> {
        let slots = if is_suspect { &self.suspect } else { &self.healthy };
        // The semaphores are never closed.
        slots.acquire().await.ok()
    }
}
