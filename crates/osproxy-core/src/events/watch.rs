//! Follows events as they happen.

use std::{sync::Arc, time::Duration};

use osproxy_meta::{Event, EventFilter};
use tokio::{sync::watch, time::Instant};

use super::{EventOps, WatchPermit};
use crate::Result;

/// Maximum number of events that a watch reads at once, and so holds in memory: up to 160 kB.
const PAGE: u64 = 8;
/// How long a watch waits for a signal. Signals of other nodes can get lost.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum time between two queries while nothing matches. Every change of any tenant wakes the watch.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Pause between two pages of events of which none matches.
const SCAN_PAUSE: Duration = Duration::from_millis(20);
/// How often a watch checks that no event was removed before it was read.
const OLDEST_CHECK: Duration = Duration::from_secs(30);

/// Follows the events that match a filter. While the client reads slowly, no events are read ahead.
pub struct EventWatch {
    events: Arc<EventOps>,
    filter: EventFilter,
    position: i64,
    signal: watch::Receiver<()>,
    checked_at: Instant,
    _permit: WatchPermit,
}

impl EventWatch {
    /// The caller has checked that no event after `position` was removed.
    pub(super) fn new(
        events: Arc<EventOps>,
        filter: EventFilter,
        position: i64,
        permit: WatchPermit,
    ) -> Self {
        // Subscribes before the first query, so that no event is missed between the two.
        let signal = events.db.subscribe();
        Self { events, filter, position, signal, checked_at: Instant::now(), _permit: permit }
    }

    /// The position up to which the events were returned, or did not match.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Returns the next events, or no events after `timeout`. Returns `None` if the client should
    /// follow another node, because this node is about to stop. Fails with `CursorExpired` if events
    /// were removed before they were read. Cancel safe.
    pub async fn next(&mut self, timeout: Duration) -> Result<Option<Vec<Event>>> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.events.node.is_draining() {
                return Ok(None);
            }
            self.signal.mark_unchanged();
            let queried_at = Instant::now();
            let page = if self.checked_at.elapsed() < OLDEST_CHECK {
                self.events.db.after(&self.filter, self.position, PAGE).await?
            } else {
                self.checked_at = queried_at;
                self.events.after(&self.filter, self.position, PAGE).await?
            };
            self.position = page.position;
            if !page.events.is_empty() {
                return Ok(Some(page.events));
            }
            if Instant::now() >= deadline {
                return Ok(Some(Vec::new()));
            }
            if page.has_more {
                tokio::time::sleep(SCAN_PAUSE).await;
                continue;
            }
            let poll = deadline.min(Instant::now() + POLL_INTERVAL);
            let _ = tokio::time::timeout_at(poll, self.signal.changed()).await;
            tokio::time::sleep_until(queried_at + MIN_INTERVAL).await;
        }
    }
}
