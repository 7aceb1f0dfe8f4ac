//! Subcommands of the command line, with one file for each.

pub mod bucket;
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
pub mod quarantine;
pub mod rescan;
pub mod s3_key;
pub mod sandbox;
pub mod scrub;
pub mod serve;
pub mod tasks;
pub mod tenant;
pub mod upload_grant;
pub mod webhook;

use std::{io::Write, pin::Pin};

use anyhow::{Context, bail};
use clap::Args;
use osproxy_meta::{DatabaseLocation, Meta, NodeStores};
use osproxy_types::{error_chain, uid::Uid};
use time::{OffsetDateTime, macros::format_description};

use crate::{config::Config, wiring};

/// Exit codes, printed at the end of `osproxy --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  failure; the message says what failed
  2  wrong usage: unknown command, option or value
  3  fsck: differences were found and all of them repaired
  4  fsck, scrub: differences remain; import-go: files were skipped
  5  health: reads work, but uploads are refused";

/// Exit code of `fsck`, `scrub` and `import-go` if differences or skipped files remain.
const DIFFERENT: u8 = 4;

/// Option to create the database file.
#[derive(Args, Clone, Copy)]
pub struct InitArgs {
    /// Create the database file if it is missing, and update the tables.
    #[arg(long)]
    init: bool,
}

/// Writes a line to standard output. Ignores write errors, such as a closed pipe.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs a short-lived subcommand on a single-threaded runtime.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Boxed, because the compiler generates the code of the runtime again for every type of future.
    let work: Pin<Box<dyn Future<Output = _>>> = Box::pin(work);
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// Returns the location of the database. Fails if the database is a file that does not exist: only
/// `serve`, `migrate` and `--init` create the file.
async fn existing_database(config: &Config) -> anyhow::Result<DatabaseLocation> {
    let location = config.database_location().map_err(anyhow::Error::msg)?;
    if let DatabaseLocation::File(database) = &location
        && !tokio::fs::try_exists(database).await.unwrap_or(false)
    {
        bail!(
            "there is no database {}: pass the service's --data-dir, --config or OSPROXY_CONFIG \
                         (`osproxy migrate` creates a database)",
            database.display()
        );
    }
    Ok(location)
}

/// Opens an existing database to read and change metadata, even while services use it.
async fn open_meta(config: &Config) -> anyhow::Result<Meta> {
    let location = existing_database(config).await?;
    let meta = Meta::open_existing(&location, wiring::database_options(config, NodeStores::default())).await;
    meta.map_err(|error| anyhow::Error::msg(Meta::open_error_message(&location, &error)))
}

/// Like [`existing_database`], but with `--init` first creates the database file and updates its
/// tables.
async fn existing_or_init(config: &Config, init: InitArgs) -> anyhow::Result<DatabaseLocation> {
    if init.init {
        migrate(config).await?;
    }
    existing_database(config).await
}

/// Like [`open_meta`], but with `--init` first creates the database file and updates its tables.
async fn open_or_init_meta(config: &Config, init: InitArgs) -> anyhow::Result<Meta> {
    existing_or_init(config, init).await?;
    open_meta(config).await
}

/// Creates the database file and its folder if they are missing, and updates the tables.
async fn migrate(config: &Config) -> anyhow::Result<()> {
    let location = config.database_location().map_err(anyhow::Error::msg)?;
    if let DatabaseLocation::File(_) = &location {
        wiring::create_private_dir(&config.data_dir)
            .with_context(|| format!("cannot create the data folder {}", config.data_dir.display()))?;
    }
    let migrated = osproxy_meta::migrate(&location).await;
    migrated.map_err(|error| anyhow::Error::msg(Meta::open_error_message(&location, &error)))
}

/// Returns an id for a task that a subcommand enqueues while services run. It is random and lower
/// than all uids, which nodes issue.
fn new_task_id() -> anyhow::Result<Uid> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("cannot generate an id")?;
    Ok(Uid::from_db((i64::from_le_bytes(random) & ((1 << 52) - 1)).max(1)))
}

/// Prints a table, or `none` if it has no rows.
fn print_table(header: &str, rows: impl IntoIterator<Item = String>) {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return print_line("none");
    }
    print_line(header.trim_end());
    for row in rows {
        print_line(row.trim_end());
    }
}

/// Formats milliseconds since the Unix epoch as UTC.
fn format_timestamp(milliseconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let moment = OffsetDateTime::from_unix_timestamp(milliseconds / 1000).ok();
    moment.and_then(|moment| moment.format(format).ok()).unwrap_or_else(|| milliseconds.to_string())
}

/// Prints an error and its causes to standard error.
pub fn print_error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "osproxy: {}", error_chain(&**error));
}
