//! Follows events as they happen.

use std::{sync::Arc, time::Duration};

use osproxy_meta::{Event, EventFilter};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};

use super::EventOps;
use crate::Result;

/// Maximum number of events that a watch reads at once, and so holds in memory.
const PAGE: u64 = 50;
/// How long a watch waits for a signal. Signals of other nodes can get lost.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum time between two queries that find nothing new. Every change of any tenant wakes the watch.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// Follows the events that match a filter. While the client reads slowly, no events are read ahead.
pub struct EventWatch {
    events: Arc<EventOps>,
    filter: EventFilter,
    position: i64,
    signal: watch::Receiver<()>,
    last_query: Option<Instant>,
    _permit: OwnedSemaphorePermit,
}

impl EventWatch {
    pub(super) fn new(
        events: Arc<EventOps>,
        filter: EventFilter,
        position: i64,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        // Subscribes before the first query, so that no event is missed between the two.
        let signal = events.db.subscribe();
        Self { events, filter, position, signal, last_query: None, _permit: permit }
    }

    /// Returns the next events, or no events after `timeout`. Returns `None` if the client should
    /// follow another node, because this node is about to stop. Cancel safe.
    pub async fn next(&mut self, timeout: Duration) -> Result<Option<Vec<Event>>> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.events.node.is_draining() {
                return Ok(None);
            }
            self.signal.mark_unchanged();
            let page = self.events.after(&self.filter, self.position, PAGE).await?;
            self.last_query = Some(Instant::now());
            self.position = page.position;
            if !page.events.is_empty() {
                return Ok(Some(page.events));
            }
            if page.has_more {
                continue;
            }
            if Instant::now() >= deadline {
                return Ok(Some(Vec::new()));
            }
            let poll = deadline.min(Instant::now() + POLL_INTERVAL);
            let _ = tokio::time::timeout_at(poll, self.signal.changed()).await;
            if let Some(last) = self.last_query {
                tokio::time::sleep_until(last + MIN_INTERVAL).await;
            }
        }
    }
}
