//! Finds and caches the owners of stores.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{Coordinator, NodeDescription, boxed_future};

/// How long a lookup that found no owner is cached. Without this, every request for the store would
/// repeat the lookup.
const MISS_TTL: Duration = Duration::from_secs(1);
/// Minimum age of a cached lookup before a refresh repeats it.
const REFRESH_INTERVAL: Duration = Duration::from_millis(200);

/// Finds the owner of a store: the only node that has access to the store. Clones share one cache.
#[derive(Clone)]
pub struct Owners(Arc<Inner>);

struct Inner {
    coordinator: Arc<dyn Coordinator>,
    /// How long a known owner is trusted.
    ttl: Duration,
    /// Cached lookups, by store id.
    cache: Mutex<HashMap<String, CachedOwner>>,
}

/// Result of the latest lookup of the owner of a store.
#[derive(Clone)]
struct CachedOwner {
    looked_up_at: Instant,
    owner: Option<NodeDescription>,
    /// Whether the registry answered the lookup. If it did, and `owner` is `None`, the owner is
    /// away.
    is_certain: bool,
}

/// No live node that serves the store is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no live node serves the store {store}")]
pub struct NoOwner {
    /// Id of the store.
    pub store: String,
}

impl Owners {
    /// Creates a cache that trusts a known owner for `ttl`.
    pub fn new(coordinator: Arc<dyn Coordinator>, ttl: Duration) -> Self {
        Self(Arc::new(Inner { coordinator, ttl, cache: Mutex::default() }))
    }

    /// Returns the owner of `store`, a store that this node cannot access. Fails if no owner is
    /// known.
    ///
    /// A cached owner is used until its TTL has passed. While the registry is unavailable, the
    /// cached owner is used longer. Set `refresh` if the cached owner did not answer.
    pub async fn owner_of(&self, store: &str, refresh: bool) -> Result<NodeDescription, NoOwner> {
        let CachedOwner { owner, .. } = self.find(store, refresh).await;
        owner.ok_or_else(|| NoOwner { store: store.to_owned() })
    }

    /// Whether the owner of a store is known to be away. Returns `false` if the registry is
    /// unavailable or possibly incomplete.
    #[boxed_future]
    pub async fn is_owner_away(&self, store: &str) -> bool {
        let CachedOwner { owner, is_certain, .. } = self.find(store, false).await;
        owner.is_none() && is_certain
    }

    async fn find(&self, store: &str, refresh: bool) -> CachedOwner {
        let previous = self.cache().get(store).cloned();
        let is_fresh = |cached: &&CachedOwner| {
            let ttl = if cached.owner.is_some() { self.0.ttl } else { MISS_TTL };
            cached.looked_up_at.elapsed() < if refresh { REFRESH_INTERVAL } else { ttl }
        };
        if let Some(cached) = previous.as_ref().filter(is_fresh) {
            return cached.clone();
        }
        let (owner, is_certain) = match self.0.coordinator.find_owner(store).await {
            Ok(owner) => (owner, true),
            Err(error) => {
                tracing::warn!(%error, "cannot look up the owner of a store; using the last known owner, if any");
                // Without Redis, the last known owner is the best guess.
                (previous.and_then(|cached| cached.owner), false)
            }
        };
        let cached = CachedOwner { looked_up_at: Instant::now(), owner, is_certain };
        self.cache().insert(store.to_owned(), cached.clone());
        cached
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<String, CachedOwner>> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
