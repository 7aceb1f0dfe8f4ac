//! This node in the cluster: what it announces about itself, and which node has which store.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::App;
pub use crate::coord::{NodeDescription, RegisteredNode};
use crate::{Error, Result, config::Config, coord::LoadReport, version};

/// How long a failed lookup of a store is cached, so that not every request for the store repeats
/// it.
const MISS_TTL: Duration = Duration::from_secs(1);
/// Minimum age of a cached owner before it is looked up again because it did not answer.
const REFRESH_INTERVAL: Duration = Duration::from_millis(200);

/// State of this node, and known owners of stores.
pub(super) struct Nodes {
    /// Address at which other nodes reach this one, once it listens.
    address: OnceLock<String>,
    draining: AtomicBool,
    requests: AtomicU64,
    tasks: AtomicU64,
    /// How long a known owner is trusted.
    owner_ttl: Duration,
    /// Owners of stores, by the name of the store.
    owners: Mutex<HashMap<String, CachedOwner>>,
}

/// The known owner of a store.
#[derive(Clone)]
struct CachedOwner {
    looked_up_at: Instant,
    owner: Option<NodeDescription>,
    /// Whether the lookup succeeded. Only then does a missing owner mean that the node is away.
    is_certain: bool,
}

/// Counts a running request or task until it is dropped.
pub struct LoadGuard {
    app: Arc<App>,
    counter: fn(&Nodes) -> &AtomicU64,
}

impl LoadGuard {
    fn new(app: &Arc<App>, counter: fn(&Nodes) -> &AtomicU64) -> Self {
        counter(&app.nodes).fetch_add(1, Ordering::Relaxed);
        Self { app: app.clone(), counter }
    }

    /// Counts a request as running from now on.
    pub fn request(app: &Arc<App>) -> Self {
        Self::new(app, |nodes| &nodes.requests)
    }

    /// Counts a task as running from now on.
    pub fn task(app: &Arc<App>) -> Self {
        Self::new(app, |nodes| &nodes.tasks)
    }
}

impl Drop for LoadGuard {
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
            owner_ttl: Duration::from_secs(config.cluster.heartbeat),
            owners: Mutex::default(),
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<String, CachedOwner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Announces this node to others, which reach it at `address`.
    pub async fn announce(self: &Arc<Self>, address: String) {
        self.nodes.address.get_or_init(|| address);
        let app = Arc::downgrade(self);
        let last = self.describe();
        let describe = move || app.upgrade().map_or_else(|| last.clone(), |app| app.describe());
        self.coordinator.announce(Arc::new(describe)).await;
    }

    /// Address at which other nodes reach this one; empty before it listens.
    pub fn address(&self) -> &str {
        self.nodes.address.get().map_or("", String::as_str)
    }

    fn describe(&self) -> NodeDescription {
        let load = rustix::system::sysinfo().loads.first().copied().unwrap_or(0);
        // A fixed-point number with 16 fractional bits. Two decimals are enough.
        let hundredths = u32::try_from(load.saturating_mul(100) >> 16).unwrap_or(u32::MAX);
        NodeDescription {
            id: self.node_id.clone(),
            address: self.address().to_owned(),
            version: version::NUMBER.to_owned(),
            own_stores: self.stores.names().into_iter().filter(|name| !self.stores.is_shared(name)).collect(),
            stores: self.stores.names(),
            started_at: self.started_at,
            load: LoadReport {
                requests: self.nodes.requests.load(Ordering::Relaxed),
                tasks: self.nodes.tasks.load(Ordering::Relaxed),
                load_average: f64::from(hundredths) / 100.0,
            },
        }
    }

    /// Number of running requests and tasks.
    pub(super) fn load(&self) -> (u64, u64) {
        let [requests, tasks] =
            [&self.nodes.requests, &self.nodes.tasks].map(|counter| counter.load(Ordering::Relaxed));
        (requests, tasks)
    }

    /// Reports this node as not ready from now on, and asks clients to connect to another one.
    pub fn drain(&self) {
        self.nodes.draining.store(true, Ordering::Relaxed);
    }

    /// Whether this node is about to stop.
    pub fn is_draining(&self) -> bool {
        self.nodes.draining.load(Ordering::Relaxed)
    }

    /// Returns the node that has `store`, which this node does not have. Fails if no node has it.
    /// The cached owner is at most one heartbeat old; set `refresh` if that owner did not answer.
    pub async fn owner_of(&self, store: &str, refresh: bool) -> Result<NodeDescription> {
        let CachedOwner { owner, .. } = self.find_owner(store, refresh).await;
        owner.ok_or_else(|| Error::store_unreachable(store))
    }

    /// Whether the node that has a store is known to be away, as opposed to unknown.
    pub async fn is_owner_away(&self, store: &str) -> bool {
        let CachedOwner { owner, is_certain: is_sure, .. } = self.find_owner(store, false).await;
        owner.is_none() && is_sure
    }

    async fn find_owner(&self, store: &str, anew: bool) -> CachedOwner {
        let known = self.nodes.owners().get(store).cloned();
        let enough = |heard: &&CachedOwner| {
            let fresh = if heard.owner.is_some() { self.nodes.owner_ttl } else { MISS_TTL };
            heard.looked_up_at.elapsed() < if anew { REFRESH_INTERVAL } else { fresh }
        };
        if let Some(heard) = known.as_ref().filter(enough) {
            return heard.clone();
        }
        let (owner, is_sure) = match self.coordinator.find_owner(store).await {
            Ok(owner) => (owner, true),
            Err(error) => {
                tracing::warn!(%error, "cannot look up the node of a store");
                // Without Redis, the last known owner is the best guess.
                (known.and_then(|heard| heard.owner), false)
            }
        };
        let heard = CachedOwner { looked_up_at: Instant::now(), owner, is_certain: is_sure };
        self.nodes.owners().insert(store.to_owned(), heard.clone());
        heard
    }
}
