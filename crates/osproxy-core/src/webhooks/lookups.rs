//! Lookups of host names.
//!
//! The system looks up names in a blocking call that cannot be cancelled, and that takes long if no
//! name server answers. So the number of calls is limited, each holds its slot until it ends,
//! whether or not somebody still waits for it, and there is at most one call for a name.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use osproxy_types::tenant::Tenant;
use tokio::sync::watch;

use super::slots::{FairSlots, Slot};

/// Maximum number of concurrent lookups. Each occupies a blocking thread.
const MAX_LOOKUPS: usize = 32;

/// The addresses of a name, or why they are not known.
pub(super) type Addresses = Result<Arc<[IpAddr]>, Arc<io::Error>>;
type Running = watch::Receiver<Option<Addresses>>;

/// Looks up names.
#[derive(Clone)]
pub(super) struct Lookups {
    slots: FairSlots,
    running: Arc<Mutex<HashMap<String, Running>>>,
}

impl Lookups {
    pub(super) fn new() -> Self {
        Self { slots: FairSlots::new(MAX_LOOKUPS), running: Arc::default() }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the addresses of a name. Shares a lookup of the same name that is under way, or starts
    /// one in a slot of the tenant.
    pub(super) async fn look_up(&self, tenant: &Tenant, name: &str) -> Addresses {
        let known = self.running().get(name).cloned();
        let mut lookup = if let Some(running) = known {
            running
        } else {
            let slot = self.slots.acquire(tenant).await;
            self.join_or_start(name, slot)
        };
        let ended = lookup.wait_for(Option::is_some).await;
        let addresses = ended.ok().and_then(|addresses| addresses.clone());
        addresses.unwrap_or_else(|| Err(Arc::new(io::Error::other("the lookup was interrupted"))))
    }

    fn join_or_start(&self, name: &str, slot: Option<Slot>) -> Running {
        let mut running = self.running();
        // It may have started while this caller waited for its slot.
        if let Some(lookup) = running.get(name) {
            return lookup.clone();
        }
        let (sender, lookup) = watch::channel(None);
        running.insert(name.to_owned(), lookup.clone());
        let (lookups, name) = (self.clone(), name.to_owned());
        // Not within the caller, who may give up before the blocking call ends.
        tokio::spawn(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found = found.map(|found| found.map(|address| address.ip()).collect());
            lookups.running().remove(&name);
            sender.send_replace(Some(found.map_err(Arc::new)));
            drop(slot);
        });
        lookup
    }
}
