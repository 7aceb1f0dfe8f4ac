//! Wakes those who wait for events.

use tokio::sync::{Notify, watch};

/// Signals of one database.
pub(crate) struct EventSignal {
    /// Whether an event has its position as soon as it is committed.
    has_positions_at_once: bool,
    /// Wakes the loop that assigns positions.
    recorded: Notify,
    /// Changes when events may have got positions.
    positioned: watch::Sender<()>,
}

impl EventSignal {
    pub(crate) fn new(has_positions_at_once: bool) -> Self {
        Self { has_positions_at_once, recorded: Notify::new(), positioned: watch::Sender::new(()) }
    }

    /// Call this after a transaction that may have recorded events.
    pub(super) fn recorded(&self) {
        if self.has_positions_at_once {
            self.positioned();
        } else {
            self.recorded.notify_one();
        }
    }

    /// Call this when events may have got positions.
    pub(super) fn positioned(&self) {
        self.positioned.send_replace(());
    }

    /// Waits until a transaction of this process may have recorded events without a position.
    pub(super) async fn wait_recorded(&self) {
        self.recorded.notified().await;
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.positioned.subscribe()
    }
}
