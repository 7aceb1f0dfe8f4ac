use super::value::{Findings, section};

section! {
    /// `tasks`: background work.
    TasksSection {
        /// How often a task is begun before it is given up.
        max_attempts: u32 = 5,
        /// How long a task is a process's own without a sign of life, in seconds.
        lease: u64 = 30,
        /// How often to look for tasks that nobody told of, in seconds.
        poll_interval: u64 = 5,
        /// Delay after a task's first failure, in seconds; it doubles with every further one.
        first_retry: u64 = 10,
        /// Longest delay after a failure, in seconds.
        max_retry: u64 = 600,
    }
    ignored []
}

impl TasksSection {
    /// Checks what no single setting can know.
    pub(super) fn check(&self, findings: &mut Findings) {
        let day = 24 * 60 * 60;
        for (name, value) in [
            ("lease", self.lease),
            ("poll_interval", self.poll_interval),
            ("first_retry", self.first_retry),
            ("max_retry", self.max_retry),
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
