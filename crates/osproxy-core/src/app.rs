//! [`App`], the state of a running node that all operations share. No transport code.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use osproxy_cluster::{Coordinator, Event, Forwarder, Message, Owners, UidGenerator};
use osproxy_meta::{ExclusiveLock, Invalidation, Meta};
use osproxy_types::uid::Uid;
use tokio::sync::{Notify, Semaphore, broadcast::error::RecvError};

use crate::{
    Background, Error, NodeState, Result, Stores, Transfers,
    admission::reservations,
    auth, health,
    links::{LinkKeys, rotation},
    metrics::{Metrics, export},
    objects::multipart,
    settings::{BuildInfo, Limits},
    stats,
};
/// A running node: the state that operations, tasks and transports share.
pub struct App {
    /// Metadata.
    pub meta: Meta,
    /// Object stores.
    pub stores: Stores,
    /// Signs and verifies links.
    pub links: LinkKeys,
    /// Configured limits.
    pub limits: Limits,
    /// Version of the program.
    pub build: BuildInfo,
    pub(crate) authenticator: auth::Authenticator,
    pub(crate) key_rotation: rotation::KeyRotation,
    /// Work that outlives the request that started it. Awaited when the node stops.
    pub background: Background,
    /// Notified when a task is enqueued, so that the task engine looks for it at once.
    pub task_notify: Notify,
    /// Random id of this process, under which it holds leases.
    pub node_id: String,
    /// When the node started, in milliseconds since the Unix epoch. Older unfinished writes in a
    /// node-local store belong to no live process.
    pub started_at: i64,
    /// Metrics of this node.
    pub metrics: Metrics,
    /// Admission of transfers: concurrency limits and buffer memory.
    pub transfers: Arc<Transfers>,
    /// Node registry, worker id, and messages between nodes.
    pub coordinator: Arc<dyn Coordinator>,
    /// Which nodes have the stores that this node does not have.
    pub owners: Owners,
    /// Forwards requests to other nodes, and verifies requests that they forwarded.
    pub forwarder: Forwarder,
    /// What this node announces about itself.
    pub node: NodeState,
    pub(crate) uids: UidGenerator,
    /// Exclusive lock on the database, on a database server without Redis.
    pub(crate) exclusive_lock: Option<ExclusiveLock>,
    pub(crate) active_writes: Mutex<HashSet<i64>>,
    pub(crate) stats_cache: stats::StatsCache,
    pub(crate) folders: export::DiskFolders,
    pub(crate) health_checker: health::HealthChecker,
    pub(crate) multipart_locks: multipart::StripedLocks,
    /// Bounds the number of uploads whose parts are read before completion at the same time.
    pub(crate) inspections: Semaphore,
    pub(crate) reservations: reservations::DiskReservations,
}

impl App {
    /// Sends cache invalidations of this node to the other nodes, and applies theirs.
    pub(crate) fn exchange_invalidations(self: &Arc<Self>) {
        let (sender, receiver) = (Arc::downgrade(self), Arc::downgrade(self));
        self.meta.on_invalidate(move |change| {
            if let Some(app) = sender.upgrade() {
                app.coordinator.publish(match change {
                    Invalidation::File(uid) => Message::FileChanged { uid: uid.get() },
                    Invalidation::Blob(blob_id) => Message::BlobChanged { blob_id },
                });
            }
        });
        let mut events = self.coordinator.subscribe();
        self.meta.set_cache_enabled(self.coordinator.is_connected());
        tokio::spawn(async move {
            loop {
                let event = match events.recv().await {
                    Ok(event) => event,
                    Err(RecvError::Lagged(_)) => Event::MayHaveMissed,
                    Err(RecvError::Closed) => return,
                };
                let Some(app) = receiver.upgrade() else {
                    return;
                };
                match event {
                    Event::Message(Message::FileChanged { uid }) => {
                        app.meta.invalidate(Invalidation::File(Uid::from_db(uid)));
                    }
                    Event::Message(Message::BlobChanged { blob_id }) => {
                        app.meta.invalidate(Invalidation::Blob(blob_id));
                    }
                    Event::Message(Message::TaskEnqueued) => app.task_notify.notify_one(),
                    Event::MayHaveMissed => {
                        app.meta.set_cache_enabled(app.coordinator.is_connected());
                        app.task_notify.notify_one();
                    }
                }
            }
        });
    }

    /// Wakes the task engine of this node, for a task that it may run. Other nodes find the task by
    /// polling: a message costs each of them something, so uploads must not send any.
    pub fn notify_task_engine(&self) {
        self.task_notify.notify_one();
    }

    /// Wakes the task engines of all nodes, because the store that the task needs may be another
    /// node's.
    pub fn notify_all_task_engines(&self) {
        self.notify_task_engine();
        self.coordinator.publish(Message::TaskEnqueued);
    }

    /// Returns a new uid, unique in the cluster. Fails with `Unavailable` if this node has no valid
    /// worker id or has lost its exclusive lock on the database.
    pub async fn next_uid(&self) -> Result<Uid> {
        if self.exclusive_lock.as_ref().is_some_and(|alone| !alone.is_held()) {
            return Err(Error::unavailable("this node has lost its exclusive lock on the database"));
        }
        for _ in 0..MAX_TRIES {
            let worker = self.coordinator.worker_lease();
            let worker = worker.ok_or_else(|| Error::unavailable("this node has no worker id"))?;
            let now_ms = u64::try_from(self.meta.now_ms()).unwrap_or(0);
            match self.uids.next(worker.window(), now_ms) {
                // Checked last: the process may have been suspended for long at any point before.
                Some(uid) if worker.permits(uid) => return Ok(uid),
                // Renewing the lease adds more uids.
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Error::unavailable("the worker id lease has no uids left, or ends too soon"))
    }

    /// Returns the ids of the processes that may be writing to a store now, including this one.
    pub async fn live_writers(&self, store: &str) -> Result<HashSet<String>> {
        let mut writers = HashSet::from([self.node_id.clone()]);
        if self.stores.is_shared(store) {
            let nodes = self.coordinator.list_nodes().await.map_err(Error::unavailable)?;
            writers.extend(nodes.into_iter().map(|known| known.node.id));
        }
        Ok(writers)
    }

    /// Ids of the blobs and parts that this process is writing now.
    pub fn active_writes(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.active_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum attempts of `next_uid`, and the pause between them.
const MAX_TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);
