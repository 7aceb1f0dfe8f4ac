//! `osproxy scrub`

mod report;
mod walk;

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::{self, Pace, Stores},
    config::Loaded,
    meta::{Here, Meta},
};
use report::Report;
use walk::Walk;

/// How fast to read, and where to begin.
#[derive(Args, Clone, Copy)]
pub struct Options {
    /// Bytes to read in a second at most, as in 800KiB, 50MiB or 1GiB; 0: no limit.
    #[arg(long, value_name = "BYTES", default_value = "50MiB")]
    rate: ByteSize,
    /// Begin behind this blob: where a run that was stopped says that it came to.
    #[arg(long, value_name = "BLOB", default_value_t = 0, hide_default_value = true)]
    after: i64,
    /// One JSON object a line instead, the last of them about the whole run.
    #[arg(long)]
    json: bool,
}

/// Reads everything that is stored and at hand here, and says in a line of its own what is not as it was. Changes
/// nothing, and services may be running.
pub fn run(loaded: &Loaded, options: Options) -> anyhow::Result<ExitCode> {
    let config = &loaded.config;
    super::block_on(async {
        let database = super::existing(config).await?;
        let stores = Stores::open_to_read(config, &database, Pace::new(options.rate.as_u64())).await?;
        let here = Here::new(String::new(), stores.here());
        let meta = Meta::open_existing(&database, here, app::memory(config)).await;
        let meta = meta.map_err(|error| anyhow::Error::msg(Meta::explain(&database, &error)))?;
        let mut walk = Walk { meta, stores, report: Report::new(options.json, options.after) };
        let mut terminated = signal(SignalKind::terminate())?;
        let ended = tokio::select! {
            ended = walk.go() => Some(ended),
            _ = tokio::signal::ctrl_c() => None,
            _ = terminated.recv() => None,
        };
        walk.report.end(matches!(ended, Some(Ok(()))));
        Ok(match ended.transpose()? {
            None => ExitCode::FAILURE,
            Some(()) if walk.report.is_clean() => ExitCode::SUCCESS,
            Some(()) => ExitCode::from(super::DIFFERENT),
        })
    })
}
