//! Wakes the task engines when tasks are enqueued.

use std::sync::Arc;

use osproxy_cluster::{Coordinator, Message};
use tokio::sync::Notify;

/// Wakes the task engines of this node and of others.
pub struct TaskNotifier {
    engine: Notify,
    coordinator: Arc<dyn Coordinator>,
}

impl TaskNotifier {
    pub(crate) fn new(coordinator: Arc<dyn Coordinator>) -> Self {
        Self { engine: Notify::new(), coordinator }
    }

    /// Wakes the task engine of this node only; other nodes find the task by polling. Uploads use
    /// this, because messages to all nodes for every upload would be expensive.
    pub fn notify_node(&self) {
        self.engine.notify_one();
    }

    /// Wakes the task engines of all nodes. Use this if only another node may have the store that
    /// the task needs.
    pub fn notify_cluster(&self) {
        self.notify_node();
        self.coordinator.publish(Message::TaskEnqueued);
    }

    /// Waits until the task engine of this node is woken.
    pub(super) async fn notified(&self) {
        self.engine.notified().await;
    }
}
