use super::value::{Findings, section};

section! {
    /// `events`: what happened to files.
    EventsSection {
        /// Whether changes of files record events.
        enabled: bool = true,
        /// How long events are kept, in seconds.
        retention: u64 as seconds = 7 * 24 * 60 * 60,
    }
    ignored []
}

impl EventsSection {
    /// Checks the allowed ranges.
    pub(super) fn check(&self, findings: &mut Findings) {
        let (minute, year) = (60, 366 * 24 * 60 * 60);
        if !(minute..=year).contains(&self.retention) {
            findings.problem("events.retention", format_args!("must be {minute} to {year} seconds"));
        }
    }
}
