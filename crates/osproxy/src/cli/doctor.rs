//! `osproxy doctor`: tests the stores and the clock.

mod clock;
mod local;
mod probes;
mod remote;
mod report;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{LoadedConfig, StoreKind};
use report::DoctorReport;

/// Tests every configured store and the clock, and prints one line for each probe.
pub fn run(loaded: &LoadedConfig) -> anyhow::Result<ExitCode> {
    let config = &loaded.config;
    super::block_on(async {
        let mut report = DoctorReport::new(config);
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
                    local::check(config, &mut report).await;
                    false
                }
                remote => remote::check(config, remote, &mut report, &mut stopped).await,
            };
            if is_stopped {
                report.line("interrupted");
                return Ok(ExitCode::FAILURE);
            }
        }
        clock::check(config, &mut report).await;
        Ok(report.summarize())
    })
}
