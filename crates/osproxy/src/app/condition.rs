//! What a node needs, and whether it has it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use osproxy_storage::Diagnosis;
use tokio::sync::Mutex;

use super::App;
use crate::error;

/// How long what was found out of disks and stores is good enough: whoever asks more often costs nothing.
const GOOD_ENOUGH: Duration = Duration::from_secs(5);
/// How long finding out may take before a disk or a store counts as down.
const PATIENCE: Duration = Duration::from_secs(2);
/// Less room on a disk than this is none, in bytes: the database needs some to go on.
const FULL: u64 = 64 << 20;

/// What a node needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The database: nothing goes without it.
    Database,
    /// Redis, through which nodes hear of each other.
    Cache,
    /// A store on other machines.
    Store,
    /// Room on the disks of this machine, and that they can be written to.
    Disk,
}

impl Need {
    /// Its name: no vendor, no address.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Cache => "cache",
            Self::Store => "store",
            Self::Disk => "disk",
        }
    }
}

/// What was down when it was looked at last, and when that was.
pub(super) type Looked = Mutex<Option<(Instant, Vec<Need>)>>;

impl App {
    /// What this node needs and does not have, but for what is no trouble at this moment.
    pub async fn what_is_down(self: &Arc<Self>) -> Vec<Need> {
        let (database, looked) = tokio::join!(self.meta.ping(), tokio::time::timeout(PATIENCE, self.look()));
        let mut down = looked.unwrap_or_else(|_| {
            tracing::warn!("not well: the disks and stores of this node take too long to answer");
            vec![Need::Store]
        });
        if let Err(error) = database {
            tracing::warn!(error = error::chain(&error), "not ready: the database does not answer");
            down.push(Need::Database);
        }
        if !self.coordinator.hears() {
            down.push(Need::Cache);
        }
        down.sort_unstable();
        down
    }

    /// Whether other nodes are better off without this one: what is down is its own, and not theirs too.
    pub fn is_better_spared(&self, down: &[Need]) -> bool {
        let has_own = self.stores.are_apart() && !self.stores.is_shared(self.stores.for_new());
        down.contains(&Need::Database) || has_own && down.contains(&Need::Disk)
    }

    /// Looks at disks and stores, once at a time and not anew for a while.
    async fn look(self: &Arc<Self>) -> Vec<Need> {
        let app = self.clone();
        let looking = self.background.spawn(async move {
            let mut looked = app.looked.lock().await;
            if let Some((at, down)) = &*looked
                && at.elapsed() < GOOD_ENOUGH
            {
                return down.clone();
            }
            let (disk, store) = tokio::join!(app.folders.are_writable(FULL), app.stores.answer());
            let mut down = Vec::new();
            if let Err(error) = disk {
                tracing::warn!(%error, "not well: a disk of this node is full, or cannot be written to");
                down.push(Need::Disk);
            }
            if let Err(error) = store {
                let (why, error) = (Diagnosis::of(&error), error::chain(&error));
                tracing::warn!(?why, error, "not well: a store does not answer");
                down.push(Need::Store);
            }
            *looked = Some((Instant::now(), down.clone()));
            down
        });
        looking.await.unwrap_or_else(|_| vec![Need::Store])
    }
}
