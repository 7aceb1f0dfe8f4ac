//! Prints and counts the results of an import.

use std::{collections::BTreeMap, process::ExitCode};

use bytesize::ByteSize;
use osproxy_meta::{GoTaskCount, ImportContent, ImportOutcome, ImportPart};

use crate::cli::{DIFFERENT, print_line};

/// State of an imported file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ImportedKind {
    Whole,
    InParts,
    Unfinished,
}

pub(super) fn imported_kind(content: &ImportContent) -> ImportedKind {
    match content {
        ImportContent::Whole { .. } => ImportedKind::Whole,
        ImportContent::Parts { .. } => ImportedKind::InParts,
        ImportContent::Unfinished(..) => ImportedKind::Unfinished,
    }
}

pub(super) fn print_orphans(count: i64) {
    if count > 0 {
        print_line(&format!(
            "{count} part rows belong to no file; `osproxy fsck` finds their objects, if there are any"
        ));
    }
}

/// Prints how many tasks of the Go program are unfinished. They are not imported: imported files
/// get new tasks that do the same work.
pub(super) fn print_tasks(tasks: &[GoTaskCount]) {
    for GoTaskCount { kind, state, count } in tasks {
        let state = match state {
            0 => "were not started",
            1 => "were started but did not finish",
            2 => continue,
            _ => "failed",
        };
        print_line(&format!(
            "{count} {kind} tasks {state}; they are not imported, since osproxy schedules its own tasks"
        ));
    }
}

/// Prints results as they arrive, and counts them.
pub(super) struct ImportReport {
    is_dry_run: bool,
    imported: BTreeMap<ImportedKind, u64>,
    reimported: u64,
    already_present: u64,
    skipped: BTreeMap<String, u64>,
    leftovers: (u64, u64),
}

impl ImportReport {
    pub(super) fn new(is_dry_run: bool) -> Self {
        Self {
            is_dry_run,
            imported: BTreeMap::new(),
            reimported: 0,
            already_present: 0,
            skipped: BTreeMap::new(),
            leftovers: (0, 0),
        }
    }

    pub(super) fn begin(&self, table: &str, rows: i64) {
        let suffix = if self.is_dry_run { ", dry run: nothing is imported" } else { "" };
        print_line(&format!("{table}: {rows} rows{suffix}"));
    }

    /// Reports a skipped file. The summary counts skipped files by the text of `reason` before the
    /// first colon.
    pub(super) fn skipped(&mut self, uid: i64, reason: &str) {
        print_line(&format!("skipped {uid}: {reason}"));
        let kind = reason.split(':').next().unwrap_or(reason);
        *self.skipped.entry(kind.to_owned()).or_default() += 1;
    }

    /// Counts files that were imported before.
    pub(super) fn already_present(&mut self, count: usize) {
        self.already_present += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// Reports the result of recording a file.
    pub(super) fn imported(
        &mut self,
        uid: i64,
        kind: ImportedKind,
        imported: ImportOutcome,
        notes: &[String],
    ) {
        match imported {
            ImportOutcome::Unchanged => return self.already_present(1),
            ImportOutcome::Conflict => {
                return self.skipped(uid, "another blob already has the id of its object");
            }
            ImportOutcome::Replaced => self.reimported += 1,
            ImportOutcome::Imported => {}
        }
        *self.imported.entry(kind).or_default() += 1;
        for note in notes {
            print_line(&format!("{uid}: {note}"));
        }
    }

    pub(super) fn leftovers(&mut self, leftovers: &[ImportPart]) {
        self.leftovers.0 += u64::try_from(leftovers.len()).unwrap_or(u64::MAX);
        self.leftovers.1 += leftovers.iter().map(|part| part.size).sum::<u64>();
    }

    /// Prints the summary and returns the exit code: 4 if files were skipped.
    pub(super) fn summarize(self) -> ExitCode {
        let count = |kind| self.imported.get(&kind).copied().unwrap_or_default();
        let (whole, in_parts, unfinished) =
            (count(ImportedKind::Whole), count(ImportedKind::InParts), count(ImportedKind::Unfinished));
        let skipped: u64 = self.skipped.values().sum();
        if self.leftovers.0 > 0 {
            let (count, size) = (self.leftovers.0, ByteSize(self.leftovers.1));
            print_line(&format!(
                "{count} part objects, {size}, were left behind by merges (see --remove-leftovers)"
            ));
        }
        for (reason, count) in &self.skipped {
            print_line(&format!("{count} skipped: {reason}"));
        }
        let verb = if self.is_dry_run { "would be imported" } else { "imported" };
        print_line(&format!(
            "{} files {verb}: {whole} whole, {in_parts} in parts, {unfinished} unfinished; \
                         {} of them again; {} already present; {skipped} skipped",
            whole + in_parts + unfinished,
            self.reimported,
            self.already_present
        ));
        if skipped == 0 { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) }
    }
}
