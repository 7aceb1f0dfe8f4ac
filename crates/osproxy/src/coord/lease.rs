use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::uid::{Uid, Window, WorkerId};

/// A worker number that a node holds for some time.
///
/// Two bounds keep uids unique. The lease is over at a moment of the machine's own clock, which goes on while the process
/// or the machine sleeps: then the number is not used any more. And whoever takes a number records the latest moment that
/// its uids will bear, by the clock of Redis; the next holder issues none that bears that moment or an earlier one. Uids keep
/// within these moments whatever the node's own clock shows. A uid is held against both bounds *after* it was made. A
/// process that was stopped anywhere before throws it away; one that is stopped later has a uid that no later holder can
/// make.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLease {
    /// The number.
    pub id: WorkerId,
    /// Uids bear later moments than this, in milliseconds since the Unix epoch.
    pub after_ms: u64,
    /// Uids bear this moment or earlier ones, in milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// When it is over, by the clock that [`since_boot`] reads.
    pub(super) ends: Duration,
}

impl WorkerLease {
    /// A number that nobody else ever has.
    pub(super) const fn for_ever(id: WorkerId) -> Self {
        Self { id, after_ms: 0, until_ms: u64::MAX, ends: Duration::MAX }
    }

    /// Whether the lease is not over.
    pub fn holds(&self) -> bool {
        since_boot() < self.ends
    }

    /// What uids under the number may bear.
    pub const fn window(&self) -> Window {
        Window { worker: self.id, after_ms: self.after_ms, until_ms: self.until_ms }
    }

    /// Whether a uid that was made under the number may be given out.
    pub fn permits(&self, uid: Uid) -> bool {
        let issued = uid.issued_ms();
        self.after_ms < issued && issued <= self.until_ms && self.holds()
    }
}

/// Time since the machine was started, sleep included.
pub(super) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
