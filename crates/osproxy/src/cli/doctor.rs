//! `osproxy doctor`

mod clock;
mod local;
mod probes;
mod remote;
mod report;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Loaded, StoreKind};
use report::Report;

/// Tests every configured store and the clock, and prints one line for each probe.
pub fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let config = &loaded.config;
    super::block_on(async {
        let mut report = Report::new(config);
        let mut stop = signal(SignalKind::terminate())?;
        let stopped = async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = stop.recv() => {}
            }
        };
        tokio::pin!(stopped);
        for kind in config.stores() {
            let is_stopped = match kind {
                StoreKind::Local => {
                    local::examine(config, &mut report).await;
                    false
                }
                remote => remote::examine(config, remote, &mut report, &mut stopped).await,
            };
            if is_stopped {
                report.line("interrupted");
                return Ok(ExitCode::FAILURE);
            }
        }
        clock::examine(config, &mut report).await;
        Ok(report.end())
    })
}
