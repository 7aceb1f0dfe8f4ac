//! The lease of a worker id.

use std::time::Duration;

use osproxy_types::uid::Uid;
use rustix::time::{ClockId, clock_gettime};

use crate::{UidWindow, WorkerId};

/// A worker id that a node holds for a limited time.
///
/// Two bounds keep uids unique. First, the lease ends at a moment of the machine's boot-time clock,
/// which continues while the process or the machine sleeps; after that the id is not used any more.
/// Second, a node that acquires a worker id records the latest timestamp its uids will have, by the
/// clock of Redis; the next holder issues only uids with later timestamps. Uids stay within these
/// timestamps whatever the node's own clock shows. Both bounds are checked *after* a uid was
/// generated: a process that was suspended before the check discards the uid, and a process that is
/// suspended after it has a uid that no later holder can generate.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLease {
    /// The worker id.
    pub id: WorkerId,
    /// Uids have timestamps later than this, in milliseconds since the Unix epoch.
    pub after_ms: u64,
    /// Uids have timestamps up to this, in milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// End of the lease, by the clock of [`since_boot`].
    pub(super) expires_at: Duration,
}

impl WorkerLease {
    /// A worker id that no other process ever uses.
    pub(super) const fn permanent(id: WorkerId) -> Self {
        Self { id, after_ms: 0, until_ms: u64::MAX, expires_at: Duration::MAX }
    }

    /// Whether the lease has not ended.
    pub fn is_valid(&self) -> bool {
        since_boot() < self.expires_at
    }

    /// Timestamps that uids with this worker id may have.
    pub const fn window(&self) -> UidWindow {
        UidWindow { worker: self.id, after_ms: self.after_ms, until_ms: self.until_ms }
    }

    /// Whether a uid generated with this worker id may be issued.
    pub fn permits(&self, uid: Uid) -> bool {
        let issued = uid.timestamp_ms();
        self.after_ms < issued && issued <= self.until_ms && self.is_valid()
    }
}

/// Time since boot, including sleep.
pub(super) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
