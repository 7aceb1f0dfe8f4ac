//! Events: reading them, and following them as they happen.

mod watch;

pub use osproxy_meta::{Event, EventFilter, EventKind, EventPage, EventSource};
pub use watch::EventWatch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use osproxy_api::ErrorCode;
use osproxy_cluster::Message;
use osproxy_meta::EventDb;
use osproxy_types::{error_chain, tenant::Tenant};

use crate::{App, Error, NodeState, Result, boxed_future};

/// How often to look for events without a position, and for exceeded quotas, if nothing wakes the
/// loop.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time between two assignments of a node.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of clients that follow the events of this node at the same time.
const MAX_WATCHES: usize = 256;
/// Maximum number of clients of one tenant among them.
const MAX_TENANT_WATCHES: usize = 64;

/// Handle for operations on events: list, watch.
pub struct EventOps {
    pub(crate) db: EventDb,
    node: NodeState,
    watches: Arc<Watches>,
}

/// Number of watches of each tenant.
#[derive(Default)]
struct Watches(Mutex<HashMap<Tenant, usize>>);

/// Counts a watch until it is dropped.
struct WatchPermit {
    watches: Arc<Watches>,
    tenant: Tenant,
}

impl Watches {
    fn acquire(self: &Arc<Self>, tenant: &Tenant) -> Option<WatchPermit> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.get(tenant).copied().unwrap_or(0);
        if own >= MAX_TENANT_WATCHES || counts.values().sum::<usize>() >= MAX_WATCHES {
            return None;
        }
        counts.insert(tenant.clone(), own + 1);
        Some(WatchPermit { watches: self.clone(), tenant: tenant.clone() })
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        let mut counts = self.watches.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.tenant) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.tenant)),
        }
    }
}

impl EventOps {
    pub(crate) fn new(db: EventDb, node: NodeState) -> Self {
        Self { db, node, watches: Arc::default() }
    }

    /// Returns up to `limit` events after the event with the id `after`; 0 stands for the beginning.
    /// Fails with `CursorExpired` if events after it may have been removed, or if there was no such
    /// event yet.
    #[boxed_future]
    pub async fn after(&self, filter: &EventFilter, after: i64, limit: u64) -> Result<EventPage> {
        let page = self.db.after(filter, after, limit).await?;
        if after > page.newest {
            let message =
                "there was no event with this id yet; was the database restored? Start again with 0";
            return Err(Error::new(ErrorCode::CursorExpired, message));
        }
        // Read after the page: events may be removed at any time.
        if after > 0 && self.db.oldest_position().await?.is_some_and(|oldest| oldest - 1 > after) {
            let message = "events after this one were removed; start again with 0";
            return Err(Error::new(ErrorCode::CursorExpired, message));
        }
        Ok(page)
    }

    /// Follows the events of a tenant after the event with the id `after`; `None` stands for the
    /// newest one. Fails with `Overloaded` if too many clients follow the events of this node.
    pub async fn watch(
        self: &Arc<Self>,
        tenant: &Tenant,
        kinds: Vec<EventKind>,
        after: Option<i64>,
    ) -> Result<EventWatch> {
        let permit = self.watches.acquire(tenant).ok_or_else(|| {
            Error::new(ErrorCode::Overloaded, "too many clients follow the events; retry later")
        })?;
        let filter = EventFilter { tenant: Some(tenant.clone()), kinds };
        let after = match after {
            Some(after) => after,
            None => self.db.newest_position().await?,
        };
        // Fail now if events were removed, while the client can be told so.
        self.after(&filter, after, 1).await?;
        Ok(EventWatch::new(self.clone(), filter, after, permit))
    }
}

/// Parses names of kinds. Fails with `InvalidArgument` for the field `types`.
pub fn parse_kinds<'n>(names: impl Iterator<Item = &'n str>) -> Result<Vec<EventKind>> {
    let mut kinds = Vec::new();
    for name in names {
        let Some(kind) = EventKind::of_name(name) else {
            let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
            let message = format!("`types` must be among {}", known.join(", "));
            return Err(Error::invalid(message).with_field("types"));
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
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
                Ok(_) => {
                    app.coordinator.publish(Message::EventsRecorded);
                    // Under load, one assignment and one message are for many events.
                    tokio::time::sleep(MIN_INTERVAL).await;
                }
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(error, "cannot assign positions to events; retrying");
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            }
        }
    });
}
