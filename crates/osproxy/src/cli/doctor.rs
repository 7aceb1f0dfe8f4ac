//! `osproxy doctor`: tests the stores, the clock and the sandbox.

mod clock;
mod local;
mod probes;
mod remote;
mod report;

use std::process::ExitCode;

use osproxy_core::processing::sandbox::confine::has_landlock;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Config, LoadedConfig, StoreKind},
    wiring::LANDLOCK_ADVICE,
};
use report::DoctorReport;

/// Tests every configured store, the clock and the sandbox of processing, and prints one line for each
/// probe.
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
        check_sandbox(config, &mut report);
        Ok(report.summarize())
    })
}

/// Tests whether the programs of processing can be kept from files. Does nothing if there are none.
fn check_sandbox(config: &Config, report: &mut DoctorReport) {
    let (refused, accepted) = (config.steps_without_landlock(false), config.steps_without_landlock(true));
    if refused.is_empty() && accepted.is_empty() {
        return;
    }
    report.line("processing");
    if has_landlock() {
        return report.ok("sandbox", "Landlock restricts the access of programs to files");
    }
    for step in refused {
        report.wrong("sandbox", &format!("{step}: {LANDLOCK_ADVICE}"));
    }
    for step in accepted {
        report.warning("sandbox", &format!("{step}: this system has no Landlock"));
    }
}
