//! [`App`], the state of a running node.

use std::{collections::HashSet, sync::Arc};

use osproxy_cluster::{Coordinator, Event, Forwarder, Message};
use osproxy_meta::{DatabaseStats, Invalidation, Meta};
use osproxy_types::uid::Uid;
use prometheus_client::registry::Registry;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    DetachedWork, Error, IdempotencyKeys, NodeState, Result, Stores, Uids,
    admission::Admission,
    auth::Authenticator,
    cached::Cached,
    disks::DiskFolders,
    events::EventOps,
    health::HealthChecker,
    links::Links,
    metrics::Metrics,
    objects::Objects,
    ops::{FileOps, TaskOps, UploadOps, WebhookOps},
    processing::Pipeline,
    settings::{BuildInfo, Limits},
    tasks::TaskNotifier,
};

/// A running node: the handles that operations, tasks and protocol adapters use.
pub struct App {
    /// Metadata.
    pub meta: Arc<Meta>,
    /// Object stores.
    pub stores: Arc<Stores>,
    /// Deduplication, deletion, multipart uploads and reading of objects.
    pub objects: Arc<Objects>,
    /// Decides whether requests may start.
    pub admission: Arc<Admission>,
    /// Authenticates API keys.
    pub auth: Arc<Authenticator>,
    /// Signs and verifies links.
    pub links: Arc<Links>,
    /// Idempotency keys: a request that is repeated with the same key takes effect once.
    pub idempotency: Arc<IdempotencyKeys>,
    /// Generates uids.
    pub uids: Arc<Uids>,
    /// Handle for operations on files.
    pub files: Arc<FileOps>,
    /// Handle for operations on upload sessions.
    pub uploads: Arc<UploadOps>,
    /// Handle for operations on tasks.
    pub tasks: Arc<TaskOps>,
    /// Handle for operations on events.
    pub events: Arc<EventOps>,
    /// Handle for operations on webhooks.
    pub webhooks: Arc<WebhookOps>,
    /// The steps that look at complete files.
    pub pipeline: Arc<Pipeline>,
    /// Wakes the task engines.
    pub task_notifier: Arc<TaskNotifier>,
    /// Work that outlives the request that started it. Shutdown waits for it.
    pub detached_work: Arc<DetachedWork>,
    /// Metrics of this node.
    pub metrics: Arc<Metrics>,
    /// Configured limits.
    pub limits: Limits,
    /// Version of the program.
    pub build: BuildInfo,
    /// Random id of this process, under which it holds leases.
    pub node_id: String,
    /// When the node started, in milliseconds since the Unix epoch. In a node-local store, a write
    /// that began before this time has no live writer.
    pub started_at: i64,
    /// Node registry, worker id, and messages between nodes.
    pub coordinator: Arc<dyn Coordinator>,
    /// Forwards requests to other nodes, and verifies requests that other nodes have forwarded.
    pub forwarder: Forwarder,
    /// State of this node: the address and load that it announces to other nodes, and whether it
    /// drains.
    pub node: NodeState,
    /// All metrics that can be read without waiting.
    pub(crate) metrics_registry: Registry,
    pub(crate) stats_cache: Cached<Arc<DatabaseStats>>,
    pub(crate) folders: DiskFolders,
    pub(crate) health_checker: HealthChecker,
}

impl App {
    /// Starts to exchange cache invalidations with the other nodes, in both directions. While
    /// messages of other nodes cannot be received, the file cache is disabled. Also wakes the task
    /// engine when another node has enqueued a task, and passes on messages about appends.
    pub(crate) fn exchange_messages(self: &Arc<Self>) {
        let (sender, receiver) = (Arc::downgrade(self), Arc::downgrade(self));
        self.meta.on_invalidate(move |change| {
            if let Some(app) = sender.upgrade() {
                app.coordinator.publish(match change {
                    Invalidation::File(uid) => Message::FileChanged { uid: uid.get() },
                    Invalidation::Blob(blob_id) => Message::BlobChanged { blob_id },
                });
            }
        });
        let task_notifier = self.task_notifier.clone();
        self.meta.on_tasks_enqueued(move || task_notifier.notify_node());
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
                    Event::Message(Message::TaskEnqueued) => app.task_notifier.notify_node(),
                    Event::Message(Message::EventsRecorded) => app.meta.events.notify(),
                    Event::Message(Message::BucketChanged { name }) => app.uploads.bucket_cache.forget(&name),
                    Event::Message(message) => app.uploads.append_locks.elsewhere.receive(&message),
                    Event::MayHaveMissed => {
                        app.uploads.append_locks.elsewhere.forget_all();
                        app.uploads.bucket_cache.forget_all();
                        app.meta.set_cache_enabled(app.coordinator.is_connected());
                        app.task_notifier.notify_node();
                    }
                }
            }
        });
    }

    /// Returns the ids of the processes that may be writing to a store now, including this process.
    pub async fn live_writers(&self, store: &str) -> Result<HashSet<String>> {
        let mut writers = HashSet::from([self.node_id.clone()]);
        if self.stores.is_shared(store) {
            let nodes = self.coordinator.list_nodes().await.map_err(Error::unavailable)?;
            writers.extend(nodes.into_iter().map(|known| known.node.id));
        }
        Ok(writers)
    }
}
