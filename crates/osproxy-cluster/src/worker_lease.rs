//! The lease of a worker id.

use std::time::Duration;

use osproxy_types::uid::Uid;
use rustix::time::{ClockId, clock_gettime};

use crate::{UidWindow, WorkerId};

/// A worker id that a node holds for a limited time.
///
/// Two bounds keep uids unique. First, the lease ends at a time of the machine's boot-time clock,
/// which continues while the process or the machine sleeps. After the end of the lease, the node no
/// longer uses the worker id. Second, a node that acquires or renews a worker id records in Redis
/// the latest timestamp that its uids can have. This timestamp is based on the clock of Redis. The
/// next holder of the worker id issues only uids with later timestamps. Even if the clock of a node
/// is wrong, the node issues no uid outside these timestamps.
///
/// Both bounds are checked *after* a uid was generated. If the process is suspended before the
/// check, and resumes after the lease has ended, the check fails and the process discards the uid.
/// If the process is suspended after the check, no later holder can generate the same uid.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLease {
    /// The worker id.
    pub id: WorkerId,
    /// Uids have timestamps later than this time, in milliseconds since the Unix epoch.
    pub after_ms: u64,
    /// Uids have timestamps up to and including this time, in milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// End of the lease, as a value of [`since_boot`].
    pub(super) expires_at: Duration,
}

impl WorkerLease {
    /// A lease without end, for a worker id that no other process uses.
    pub(super) const fn permanent(id: WorkerId) -> Self {
        Self { id, after_ms: 0, until_ms: u64::MAX, expires_at: Duration::MAX }
    }

    /// Whether the lease is still in force.
    pub fn is_valid(&self) -> bool {
        since_boot() < self.expires_at
    }

    /// The worker id, and the timestamps that its uids may have.
    pub const fn window(&self) -> UidWindow {
        UidWindow { worker: self.id, after_ms: self.after_ms, until_ms: self.until_ms }
    }

    /// Whether a uid generated with this worker id may be issued.
    pub fn permits(&self, uid: Uid) -> bool {
        let issued = uid.timestamp_ms();
        self.after_ms < issued && issued <= self.until_ms && self.is_valid()
    }
}

/// Time since the machine booted, including the time that it slept.
pub(super) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
