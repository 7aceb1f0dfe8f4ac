//! Generation of uids.

use std::{sync::Arc, time::Duration};

use osproxy_cluster::{Coordinator, UidGenerator};
use osproxy_meta::{ExclusiveLock, Meta};
use osproxy_types::uid::Uid;

use crate::{Error, Result, boxed_future};

/// Maximum attempts of [`Uids::next`].
const MAX_TRIES: usize = 4;
/// Pause after each failed attempt.
const PAUSE: Duration = Duration::from_millis(10);

/// Generates uids that are unique in the cluster.
pub struct Uids {
    generator: UidGenerator,
    meta: Arc<Meta>,
    coordinator: Arc<dyn Coordinator>,
    /// Exclusive lock on the database; set only if the database is on a server and Redis is not
    /// configured.
    exclusive_lock: Option<ExclusiveLock>,
}

impl Uids {
    pub(crate) fn new(
        generator: UidGenerator,
        meta: Arc<Meta>,
        coordinator: Arc<dyn Coordinator>,
        exclusive_lock: Option<ExclusiveLock>,
    ) -> Self {
        Self { generator, meta, coordinator, exclusive_lock }
    }

    /// Returns a new uid, unique in the cluster. Fails with `Unavailable` if this node has no valid
    /// worker id or has lost its exclusive lock on the database.
    #[boxed_future]
    pub async fn next(&self) -> Result<Uid> {
        if self.exclusive_lock.as_ref().is_some_and(|lock| !lock.is_held()) {
            return Err(Error::unavailable("this node has lost its exclusive lock on the database"));
        }
        for _ in 0..MAX_TRIES {
            let worker = self.coordinator.worker_lease();
            let worker = worker.ok_or_else(|| Error::unavailable("this node has no worker id"))?;
            let now_ms = u64::try_from(self.meta.now_ms()).unwrap_or(0);
            match self.generator.next(worker.window(), now_ms) {
                // Check the lease last: the process may have been suspended for a long time before
                // this point.
                Some(uid) if worker.permits(uid) => return Ok(uid),
                // Wait for the renewal of the lease, which permits more uids.
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Error::unavailable(
            "this node cannot issue uids until the lease of its worker id is renewed; retry",
        ))
    }

    /// Returns the time of the newest uid, in milliseconds since the Unix epoch.
    pub(crate) fn last_timestamp_ms(&self) -> u64 {
        self.generator.last_timestamp_ms()
    }
}
