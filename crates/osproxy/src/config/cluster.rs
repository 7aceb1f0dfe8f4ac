use super::value::{Findings, section};

/// Longest time of either, in seconds.
const MAX: u64 = 24 * 60 * 60;

section! {
    /// `cluster`: how nodes know of each other, where there are several.
    ClusterSection {
        /// How often a node says that it is there, in seconds. One that was not heard of three times is gone.
        heartbeat: u64 = 5,
        /// How long a node may issue uids without having heard from Redis, in seconds. The number of a node that died is
        /// free for others after that time.
        worker_lease: u64 = 120,
    }
    ignored []
}

impl ClusterSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, value) in [("heartbeat", self.heartbeat), ("worker_lease", self.worker_lease)] {
            if !(1..=MAX).contains(&value) {
                findings.problem(&format!("cluster.{name}"), format_args!("must be 1 to {MAX} seconds"));
            }
        }
    }
}
