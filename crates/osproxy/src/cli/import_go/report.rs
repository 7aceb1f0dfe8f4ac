//! Prints and counts imported and skipped files.

use std::{collections::BTreeMap, process::ExitCode};

use bytesize::ByteSize;

use crate::{
    cli::{DIFFERENT, say},
    meta::{GoTasks, Imported, ImportedContent, ImportedPart},
};

/// State of an imported file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Whole,
    InParts,
    Unfinished,
}

pub(super) fn kind_of(content: &ImportedContent) -> Kind {
    match content {
        ImportedContent::Whole { .. } => Kind::Whole,
        ImportedContent::Parts { .. } => Kind::InParts,
        ImportedContent::Unfinished(..) => Kind::Unfinished,
    }
}

pub(super) fn orphans(count: i64) {
    if count > 0 {
        say(&format!(
            "{count} part rows belong to no file; `osproxy fsck` finds their objects, if there are any"
        ));
    }
}

/// Prints unfinished tasks of the Go program. Imported files get tasks of their own, which do the
/// same work.
pub(super) fn tasks(tasks: &[GoTasks]) {
    for GoTasks { kind, state, count } in tasks {
        let state = match state {
            0 => "were not started",
            1 => "were started but did not finish",
            2 => continue,
            _ => "failed",
        };
        say(&format!(
            "{count} {kind} tasks {state}; they are not imported, since osproxy schedules its own tasks"
        ));
    }
}

/// Prints results as they arrive, and counts them.
pub(super) struct Report {
    is_dry_run: bool,
    imported: BTreeMap<Kind, u64>,
    reimported: u64,
    already_present: u64,
    skipped: BTreeMap<String, u64>,
    leftovers: (u64, u64),
}

impl Report {
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
        let whether = if self.is_dry_run { ", dry run: nothing is imported" } else { "" };
        say(&format!("{table}: {rows} rows{whether}"));
    }

    /// Reports a skipped file. Reasons are counted by the text before the first colon.
    pub(super) fn skipped(&mut self, uid: i64, reason: &str) {
        say(&format!("skipped {uid}: {reason}"));
        let kind = reason.split(':').next().unwrap_or(reason);
        *self.skipped.entry(kind.to_owned()).or_default() += 1;
    }

    /// Counts files that were imported before.
    pub(super) fn known(&mut self, count: usize) {
        self.already_present += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// Reports the result of recording a file.
    pub(super) fn imported(&mut self, uid: i64, kind: Kind, imported: Imported, remarks: &[String]) {
        match imported {
            Imported::Unchanged => return self.known(1),
            Imported::Conflict => {
                return self.skipped(uid, "another blob already has the id of its object");
            }
            Imported::Replaced => self.reimported += 1,
            Imported::Imported => {}
        }
        *self.imported.entry(kind).or_default() += 1;
        for remark in remarks {
            say(&format!("{uid}: {remark}"));
        }
    }

    pub(super) fn leftovers(&mut self, leftovers: &[ImportedPart]) {
        self.leftovers.0 += u64::try_from(leftovers.len()).unwrap_or(u64::MAX);
        self.leftovers.1 += leftovers.iter().map(|part| part.size).sum::<u64>();
    }

    /// Prints the summary and returns the exit code: 4 if files were skipped.
    pub(super) fn end(self) -> ExitCode {
        let taken = |kind| self.imported.get(&kind).copied().unwrap_or_default();
        let (whole, in_parts, unfinished) =
            (taken(Kind::Whole), taken(Kind::InParts), taken(Kind::Unfinished));
        let skipped: u64 = self.skipped.values().sum();
        if self.leftovers.0 > 0 {
            let (count, size) = (self.leftovers.0, ByteSize(self.leftovers.1));
            say(&format!(
                "{count} part objects, {size}, were left behind by merges (see --remove-leftovers)"
            ));
        }
        for (reason, count) in &self.skipped {
            say(&format!("{count} skipped: {reason}"));
        }
        let verb = if self.is_dry_run { "would be imported" } else { "imported" };
        say(&format!(
            "{} files {verb}: {whole} whole, {in_parts} in parts, {unfinished} unfinished; \
                         {} of them again; {} already present; {skipped} skipped",
            whole + in_parts + unfinished,
            self.reimported,
            self.already_present
        ));
        if skipped == 0 { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) }
    }
}
