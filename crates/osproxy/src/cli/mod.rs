//! The verbs of the command line, one file each.

pub mod check_config;
pub mod doctor;
pub mod explain;
pub mod fsck;
pub mod health;
pub mod import_go;
pub mod key;
pub mod link_key;
pub mod migrate;
pub mod nodes;
pub mod openapi;
pub mod scrub;
pub mod serve;
pub mod tasks;
pub mod tenant;

use std::io::Write;

use anyhow::{Context, bail};
use time::{OffsetDateTime, macros::format_description};

use crate::config::{Config, DatabaseLocation};

/// Exit code when content is not as it is recorded.
const DIFFERENT: u8 = 4;

/// Writes a line for whoever started the program. A closed pipe is nobody's problem.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs a verb that is no service, on one thread.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// Where the database is; makes sure that a service has made it, if it is a file: nothing is made for those who only look.
async fn existing(config: &Config) -> anyhow::Result<DatabaseLocation> {
    let location = config.database_location().map_err(anyhow::Error::msg)?;
    if let DatabaseLocation::File(database) = &location
        && !tokio::fs::try_exists(database).await.unwrap_or(false)
    {
        bail!("there is no database {}; is --data-dir right?", database.display());
    }
    Ok(location)
}

/// Milliseconds since the Unix epoch as people read them, in UTC.
fn moment(milliseconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let moment = OffsetDateTime::from_unix_timestamp(milliseconds / 1000).ok();
    moment.and_then(|moment| moment.format(format).ok()).unwrap_or_else(|| milliseconds.to_string())
}

/// Writes what went wrong, with its causes.
pub fn complain(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "osproxy: {error:#}");
}
