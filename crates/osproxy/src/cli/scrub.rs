//! `osproxy scrub`: reads all content and verifies its digests.

mod report;
mod scrubber;

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use osproxy_core::ReadRateLimit;
use osproxy_meta::{Meta, NodeStores};
use report::ScrubReport;
use scrubber::Scrubber;
use tokio::signal::unix::{SignalKind, signal};

use crate::{config::LoadedConfig, wiring};

/// Options of `osproxy scrub`.
#[derive(Args, Clone, Copy)]
pub struct ScrubArgs {
    /// Maximum read rate in bytes per second, such as 800KiB, 50MiB or 1GiB; 0: unlimited.
    #[arg(long, value_name = "BYTES", default_value = "50MiB")]
    rate: ByteSize,
    /// Start after this blob, as printed by an interrupted run.
    #[arg(long, value_name = "BLOB", default_value_t = 0, hide_default_value = true)]
    after: i64,
    /// Print one JSON object per line; the last one summarises the run.
    #[arg(long)]
    json: bool,
}

/// Reads all content in the stores of this node, and prints one line for each blob or part that
/// differs from its record. Changes nothing, and can run while services use the stores.
pub fn run(loaded: &LoadedConfig, options: ScrubArgs) -> anyhow::Result<ExitCode> {
    let config = &loaded.config;
    super::block_on(async {
        let database = super::existing_database(config).await?;
        let stores =
            wiring::stores::open_to_read(config, &database, ReadRateLimit::new(options.rate.as_u64()))
                .await?;
        let node_stores = NodeStores::new(String::new(), stores.local_stores());
        let meta = Meta::open_existing(&database, wiring::database_options(config, node_stores)).await;
        let meta = meta.map_err(|error| anyhow::Error::msg(Meta::open_error_message(&database, &error)))?;
        let mut scrubber = Scrubber { meta, stores, report: ScrubReport::new(options.json, options.after) };
        let mut terminate = signal(SignalKind::terminate())?;
        let outcome = tokio::select! {
            outcome = scrubber.run() => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
            _ = terminate.recv() => None,
        };
        scrubber.report.summarize(matches!(outcome, Some(Ok(()))));
        Ok(match outcome.transpose()? {
            None => ExitCode::FAILURE,
            Some(()) if scrubber.report.is_clean() => ExitCode::SUCCESS,
            Some(()) => ExitCode::from(super::DIFFERENT),
        })
    })
}
