//! State of this node, and its announcement to the other nodes.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use osproxy_cluster::{Coordinator, LoadReport, NodeDescription};

use crate::Stores;

/// State of this node: its address, its load, and whether it drains. All clones share one state.
#[derive(Clone)]
pub struct NodeState(Arc<Inner>);

struct Inner {
    /// The description without address and load.
    description: NodeDescription,
    /// Address at which other nodes reach this node. Set once the node listens.
    address: OnceLock<String>,
    draining: AtomicBool,
    requests: AtomicU64,
    tasks: AtomicU64,
}

/// Counts a request or task as running until this guard is dropped.
pub struct LoadGuard {
    node: NodeState,
    counter: fn(&Inner) -> &AtomicU64,
}

impl LoadGuard {
    fn new(node: &NodeState, counter: fn(&Inner) -> &AtomicU64) -> Self {
        counter(&node.0).fetch_add(1, Ordering::Relaxed);
        Self { node: node.clone(), counter }
    }

    /// Counts a running request until the returned guard is dropped.
    pub fn request(node: &NodeState) -> Self {
        Self::new(node, |node| &node.requests)
    }

    /// Counts a running task until the returned guard is dropped.
    pub fn task(node: &NodeState) -> Self {
        Self::new(node, |node| &node.tasks)
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        (self.counter)(&self.node.0).fetch_sub(1, Ordering::Relaxed);
    }
}

impl NodeState {
    /// State of the node `id`, which started at `started_at`, in milliseconds since the Unix epoch.
    pub(crate) fn new(id: String, started_at: i64, stores: &Stores, version: &str) -> Self {
        let description = NodeDescription {
            id,
            address: String::new(),
            version: version.to_owned(),
            own_stores: stores.names().into_iter().filter(|name| !stores.is_shared(name)).collect(),
            stores: stores.names(),
            started_at,
            load: LoadReport::default(),
        };
        Self(Arc::new(Inner {
            description,
            address: OnceLock::new(),
            draining: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            tasks: AtomicU64::new(0),
        }))
    }

    /// Announces this node and its `address` to the other nodes.
    pub async fn announce(&self, coordinator: &dyn Coordinator, address: String) {
        self.0.address.get_or_init(|| address);
        let node = self.clone();
        coordinator.announce(Arc::new(move || node.describe())).await;
    }

    /// Address at which other nodes reach this node; empty until the node listens.
    pub fn address(&self) -> &str {
        self.0.address.get().map_or("", String::as_str)
    }

    fn describe(&self) -> NodeDescription {
        let load = rustix::system::sysinfo().loads.first().copied().unwrap_or(0);
        // The load is a fixed-point number with 16 fractional bits. Two decimals are enough.
        let hundredths = u32::try_from(load.saturating_mul(100) >> 16).unwrap_or(u32::MAX);
        let (requests, tasks) = self.load();
        NodeDescription {
            address: self.address().to_owned(),
            load: LoadReport { requests, tasks, load_average: f64::from(hundredths) / 100.0 },
            ..self.0.description.clone()
        }
    }

    /// Number of running requests and tasks.
    pub(crate) fn load(&self) -> (u64, u64) {
        let [requests, tasks] =
            [&self.0.requests, &self.0.tasks].map(|counter| counter.load(Ordering::Relaxed));
        (requests, tasks)
    }

    /// Marks this node as about to stop: it reports that it is not ready, and asks clients to
    /// connect to another node.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether this node is about to stop.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }
}
