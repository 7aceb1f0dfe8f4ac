//! Prints the results of probes.

use std::process::ExitCode;

use crate::config::{Config, StoreKind};

/// Maximum length of text that is quoted from a store or library, in characters.
const MAX_QUOTED_CHARS: usize = 400;

/// Prints results and counts problems.
pub(super) struct DoctorReport {
    secrets: Vec<String>,
    problems: u32,
    has_skipped: bool,
}

impl DoctorReport {
    pub(super) fn new(config: &Config) -> Self {
        let described = StoreKind::ALL.iter().filter_map(|kind| config.describe_store(*kind));
        let mut secrets: Vec<_> = described.flat_map(|store| store.secrets).collect();
        secrets.retain(|secret| !secret.is_empty());
        // Longer secrets are replaced first: one secret may contain another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets, problems: 0, has_skipped: false }
    }

    pub(super) fn ok(&self, probe: &str, what: &str) {
        self.line(&format!("  ok       {probe:<12} {what}"));
    }

    pub(super) fn warning(&self, probe: &str, what: &str) {
        self.line(&format!("  warning  {probe:<12} {what}"));
    }

    pub(super) fn wrong(&mut self, probe: &str, what: &str) {
        self.problems += 1;
        self.line(&format!("  wrong    {probe:<12} {what}"));
    }

    pub(super) fn skipped(&mut self, probes: &[&str]) {
        if !probes.is_empty() {
            self.has_skipped = true;
            self.line(&format!("  skipped  {}", probes.join(", ")));
        }
    }

    #[expect(clippy::unused_self, reason = "all output goes through the report")]
    pub(super) fn line(&self, text: &str) {
        super::super::print_line(text);
    }

    /// Prepares text from a store or library for output. Masks secrets, because stores may repeat
    /// them in answers. Replaces control characters with spaces, and limits the length.
    pub(super) fn redacted(&self, text: &str) -> String {
        let mut redacted = text.to_owned();
        for secret in &self.secrets {
            redacted = redacted.replace(secret, "***");
        }
        let without_control = |character: char| if character.is_control() { ' ' } else { character };
        redacted.trim_end().chars().map(without_control).take(MAX_QUOTED_CHARS).collect()
    }

    /// Prints the summary, and returns the exit code.
    pub(super) fn summarize(&self) -> ExitCode {
        match self.problems {
            0 if self.has_skipped => self.line("no problem found, but some probes were skipped"),
            0 => self.line("no problem found"),
            1 => self.line("1 problem found"),
            count => self.line(&format!("{count} problems found")),
        }
        if self.problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
