//! Compares the clock of this machine with the clock of the database and with the newest uid.

use osproxy_core::{describe_clock_skew, describe_uid_lead};
use osproxy_meta::now_ms;

use super::report::DoctorReport;
use crate::{
    cli::{existing_database, open_meta},
    config::Config,
};

/// Compares the clock of this machine with the clock of the database and with the newest uid. Does
/// nothing if the database file does not exist yet.
pub(super) async fn check(config: &Config, report: &mut DoctorReport) {
    if existing_database(config).await.is_err() {
        return;
    }
    report.line("database");
    let lookup = async {
        let meta = open_meta(config).await?;
        let clock = meta.now_ms();
        anyhow::Ok((clock, meta.highest_id().await?))
    };
    let (clock, newest) = match lookup.await {
        Ok(result) => result,
        Err(error) => {
            let error = report.redacted(&format!("{error:#}"));
            return report.wrong("open", &error);
        }
    };
    // In a cluster, nodes issue uids by the clock of Redis.
    let newest = newest.filter(|_| !config.is_clustered());
    let ahead = newest.and_then(|newest| describe_uid_lead(newest.timestamp_ms().cast_signed(), clock));
    if let Some(problem) = describe_clock_skew(now_ms(), clock) {
        report.wrong(
            "clock",
            &format!(
                "{problem}: links expire too early or too late; synchronise the clock, for example with NTP"
            ),
        );
    } else if let Some(problem) = ahead {
        report
            .warning("clock", &format!("{problem}; uploads still work: see operations.md, \"Wrong clock\""));
    } else {
        report.ok("clock", "matches the database and its newest uid");
    }
}
