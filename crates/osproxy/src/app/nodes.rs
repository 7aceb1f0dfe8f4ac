//! This node among others: what it says of itself, and which of them has what.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::App;
pub use crate::coord::{KnownNode, Node};
use crate::{Error, Result, config::Config, coord::Load, version};

/// How long a node that is away is not looked for again: all that others want of it would ask.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The same, where a node was not found at the address that it had.
const ASK_ANEW: Duration = Duration::from_millis(200);

/// What a node knows of itself and of others.
pub(super) struct Nodes {
    /// Where others reach this one, once it listens.
    address: OnceLock<String>,
    draining: AtomicBool,
    requests: AtomicU64,
    tasks: AtomicU64,
    /// How long it is taken for true what was heard of a node.
    fresh: Duration,
    /// The nodes with stores that were asked for.
    owners: Mutex<HashMap<String, Heard>>,
}

/// What was heard of the node with a store.
#[derive(Clone)]
struct Heard {
    at: Instant,
    owner: Option<Node>,
    /// Whether that was all there is to know.
    is_sure: bool,
}

/// Counts among what is running until it is dropped.
pub struct Busy {
    app: Arc<App>,
    counter: fn(&Nodes) -> &AtomicU64,
}

impl Busy {
    fn new(app: &Arc<App>, counter: fn(&Nodes) -> &AtomicU64) -> Self {
        counter(&app.nodes).fetch_add(1, Ordering::Relaxed);
        Self { app: app.clone(), counter }
    }

    /// A request that runs from now on.
    pub fn request(app: &Arc<App>) -> Self {
        Self::new(app, |nodes| &nodes.requests)
    }

    /// A task that runs from now on.
    pub fn task(app: &Arc<App>) -> Self {
        Self::new(app, |nodes| &nodes.tasks)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        (self.counter)(&self.app.nodes).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Nodes {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            address: OnceLock::new(),
            draining: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            tasks: AtomicU64::new(0),
            fresh: Duration::from_secs(config.cluster.heartbeat),
            owners: Mutex::default(),
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Lets other nodes know of this one, which they reach at `address`.
    pub async fn announce(self: &Arc<Self>, address: String) {
        self.nodes.address.get_or_init(|| address);
        let app = Arc::downgrade(self);
        let last = self.describe();
        let describe = move || app.upgrade().map_or_else(|| last.clone(), |app| app.describe());
        self.coordinator.announce(Arc::new(describe)).await;
    }

    /// Where other nodes reach this one; empty as long as it does not listen.
    pub fn address(&self) -> &str {
        self.nodes.address.get().map_or("", String::as_str)
    }

    fn describe(&self) -> Node {
        let load = rustix::system::sysinfo().loads.first().copied().unwrap_or(0);
        // A fixed-point number; two decimals are plenty.
        let hundredths = u32::try_from(load.saturating_mul(100) >> 16).unwrap_or(u32::MAX);
        Node {
            id: self.node.clone(),
            address: self.address().to_owned(),
            version: version::NUMBER.to_owned(),
            own_stores: self.stores.names().into_iter().filter(|name| !self.stores.is_shared(name)).collect(),
            stores: self.stores.names(),
            started_at: self.started_at,
            load: Load {
                requests: self.nodes.requests.load(Ordering::Relaxed),
                tasks: self.nodes.tasks.load(Ordering::Relaxed),
                load_average: f64::from(hundredths) / 100.0,
            },
        }
    }

    /// How many requests and tasks run at this moment.
    pub(super) fn running(&self) -> (u64, u64) {
        let [requests, tasks] =
            [&self.nodes.requests, &self.nodes.tasks].map(|counter| counter.load(Ordering::Relaxed));
        (requests, tasks)
    }

    /// Says from now on that this node is not ready, and asks clients to connect to another one.
    pub fn drain(&self) {
        self.nodes.draining.store(true, Ordering::Relaxed);
    }

    /// Whether this node is about to stop.
    pub fn is_draining(&self) -> bool {
        self.nodes.draining.load(Ordering::Relaxed)
    }

    /// The node that has a store at hand which this one has not; else an error that says that it is away. What was heard
    /// within a heartbeat will do; with `anew` it was not right, and is asked for again.
    pub async fn node_with(&self, store: &str, anew: bool) -> Result<Node> {
        let Heard { owner, .. } = self.look_for(store, anew).await;
        owner.ok_or_else(|| Error::elsewhere(store))
    }

    /// Whether the node that has a store at hand is known to be away, and not merely not known.
    pub async fn is_away(&self, store: &str) -> bool {
        let Heard { owner, is_sure, .. } = self.look_for(store, false).await;
        owner.is_none() && is_sure
    }

    async fn look_for(&self, store: &str, anew: bool) -> Heard {
        let known = self.nodes.owners().get(store).cloned();
        let enough = |heard: &&Heard| {
            let fresh = if heard.owner.is_some() { self.nodes.fresh } else { ASK_AGAIN };
            heard.at.elapsed() < if anew { ASK_ANEW } else { fresh }
        };
        if let Some(heard) = known.as_ref().filter(enough) {
            return heard.clone();
        }
        let (owner, is_sure) = match self.coordinator.node_with(store).await {
            Ok(owner) => (owner, true),
            Err(error) => {
                tracing::warn!(%error, "cannot ask which node has a store");
                // What was known before Redis went away is better than nothing.
                (known.and_then(|heard| heard.owner), false)
            }
        };
        let heard = Heard { at: Instant::now(), owner, is_sure };
        self.nodes.owners().insert(store.to_owned(), heard.clone());
        heard
    }
}
