//! The verbs of the command line, one file each.

pub mod check_config;
pub mod serve;

use std::io::Write;

/// Writes a line for whoever started the program. A closed pipe is nobody's problem.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes what went wrong, with its causes.
pub fn complain(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "osproxy: {error:#}");
}
