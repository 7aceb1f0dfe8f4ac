use super::value::{Findings, section};

section! {
    /// `tasks`: background tasks.
    TasksSection {
        /// Number of attempts before a task is dead.
        max_attempts: u32 = 5,
        /// Lease of a running task, in seconds. If its node does not renew the lease in time,
        /// another node takes the task over.
        lease: u64 as seconds = 30,
        /// Interval at which a node looks for due tasks that it was not notified of, in seconds.
        poll_interval: u64 as seconds = 5,
        /// Delay after the first failed attempt, in seconds; it doubles with each further failure.
        min_backoff | first_retry: u64 as seconds = 10,
        /// Longest delay after a failed attempt, in seconds.
        max_backoff | max_retry: u64 as seconds = 600,
    }
    ignored []
}

impl TasksSection {
    /// Checks the allowed ranges.
    pub(super) fn check(&self, findings: &mut Findings) {
        let day = 24 * 60 * 60;
        for (name, value) in [
            ("lease", self.lease),
            ("poll_interval", self.poll_interval),
            ("min_backoff", self.min_backoff),
            ("max_backoff", self.max_backoff),
        ] {
            if !(1..=day).contains(&value) {
                findings.problem(&format!("tasks.{name}"), format_args!("must be 1 to {day} seconds"));
            }
        }
        if !(1..=1000).contains(&self.max_attempts) {
            findings.problem("tasks.max_attempts", "must be 1 to 1000");
        }
    }
}
