//! The table of results.

use std::fmt;

use crate::measure::{Rounds, Sample};

const TITLES: [&str; 7] = ["case", "what", "osproxy", "peer", "ratio", "target", ""];

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<[String; 7]>,
    remarks: Vec<&'static str>,
}

/// The target of a figure. If the figure has a peer, the target is for the ratio.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Report {
    /// Adds a figure that has no peer.
    pub(crate) fn figure(&mut self, case: &str, what: &str, own: f64, target: Target) {
        self.row(case, what, number(own), [String::new(), String::new()], own, target);
    }

    /// Adds a figure of osproxy, that of the peer, and their ratio.
    pub(crate) fn against(
        &mut self,
        case: &str,
        what: &str,
        (own, peer): (&Rounds, &Rounds),
        figure: impl Fn(&Sample) -> f64,
        target: Target,
    ) {
        let ratio = own.ratio(peer, &figure);
        let (own, peer) = (own.median(&figure), peer.median(&figure));
        self.row(case, what, number(own), [number(peer), format!("{ratio:.2}")], ratio, target);
    }

    /// Adds a sentence under the table.
    pub(crate) fn remark(&mut self, remark: &'static str) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    fn row(
        &mut self,
        case: &str,
        what: &str,
        own: String,
        [peer, ratio]: [String; 2],
        counts: f64,
        target: Target,
    ) {
        let (target, kept) = match target {
            Target::None => (String::new(), None),
            Target::AtLeast(least) => (format!("≥ {least}"), Some(counts >= least)),
            Target::AtMost(most) => (format!("≤ {most}"), Some(counts <= most)),
        };
        let verdict = match kept {
            None => "",
            Some(true) => "ok",
            Some(false) => "MISSED",
        };
        let row = [case.to_owned(), what.to_owned(), own, peer, ratio, target, verdict.to_owned()];
        eprintln!("  {}", row.join("  "));
        self.rows.push(row);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = TITLES.map(str::to_owned);
        let mut widths = [0; 7];
        for row in std::iter::once(&titles).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let line = |f: &mut fmt::Formatter<'_>, row: &[String; 7]| {
            for (cell, width) in row.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")
        };
        line(f, &titles)?;
        line(f, &widths.map(|width| "-".repeat(width)))?;
        self.rows.iter().try_for_each(|row| line(f, row))?;
        self.remarks.iter().try_for_each(|remark| write!(f, "\n{remark}"))
    }
}

/// Formats a value with three significant digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
