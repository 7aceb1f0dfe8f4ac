//! Events: reading them, and following them as they happen.

mod watch;

pub use osproxy_meta::{Event, EventFilter, EventKind, EventPage, EventSource};
pub use watch::EventWatch;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use osproxy_api::ErrorCode;
use osproxy_cluster::Message;
use osproxy_meta::EventDb;
use osproxy_types::error_chain;
use tokio::sync::Semaphore;

use crate::{App, Error, NodeState, Result, boxed_future};

/// How often to look for events without a position, and for exceeded quotas, if nothing wakes the
/// loop.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of clients that follow the events of this node at the same time.
const MAX_WATCHES: usize = 256;

/// Handle for operations on events: list, watch.
pub struct EventOps {
    pub(crate) db: EventDb,
    node: NodeState,
    watches: Arc<Semaphore>,
}

impl EventOps {
    pub(crate) fn new(db: EventDb, node: NodeState) -> Self {
        Self { db, node, watches: Arc::new(Semaphore::new(MAX_WATCHES)) }
    }

    /// Returns up to `limit` events after the event with the id `after`; 0 stands for the beginning.
    /// Fails with `CursorExpired` if events after it may have been removed.
    #[boxed_future]
    pub async fn after(&self, filter: &EventFilter, after: i64, limit: u64) -> Result<EventPage> {
        let page = self.db.after(filter, after, limit).await?;
        // Read after the page: events may be removed at any time.
        if after > 0 && self.db.oldest_position().await?.is_some_and(|oldest| oldest > after + 1) {
            let message = "events after this one were removed; start again without `after`";
            return Err(Error::new(ErrorCode::CursorExpired, message));
        }
        Ok(page)
    }

    /// Follows the events after the event with the id `after`; `None` stands for the newest one. Fails
    /// with `Overloaded` if too many clients follow the events of this node.
    pub async fn watch(self: &Arc<Self>, filter: EventFilter, after: Option<i64>) -> Result<EventWatch> {
        let permit = self.watches.clone().try_acquire_owned().map_err(|_| {
            Error::new(ErrorCode::Overloaded, "too many clients follow the events; retry later")
        })?;
        let after = match after {
            Some(after) => after,
            None => self.db.newest_position().await?,
        };
        // Fail now if events were removed, while the client can be told so.
        self.after(&filter, after, 1).await?;
        Ok(EventWatch::new(self.clone(), filter, after, permit))
    }
}

/// Assigns positions to the events that this node records, until the node stops.
pub(crate) fn spawn_assignment(app: &Arc<App>) {
    let (weak, db) = (Arc::downgrade(app), app.meta.events.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = db.wait_recorded() => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            let Some(app) = Weak::upgrade(&weak) else {
                return;
            };
            let assigning = async {
                db.record_exceeded_quotas().await?;
                db.assign_positions().await
            };
            match assigning.await {
                Ok(0) => {}
                Ok(_) => app.coordinator.publish(Message::EventsRecorded),
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(error, "cannot assign positions to events; retrying");
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            }
        }
    });
}
