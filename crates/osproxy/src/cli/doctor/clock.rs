use super::report::Report;
use crate::{
    app::{clock_differs, uids_are_ahead},
    cli::{existing, open},
    config::Config,
    meta::now_ms,
};

/// Compares the clock of this machine with that of the database and with the newest uid. Skipped if
/// no service has created the database yet.
pub(super) async fn examine(config: &Config, report: &mut Report) {
    if existing(config).await.is_err() {
        return;
    }
    report.line("database");
    let looking = async {
        let meta = open(config).await?;
        let clock = meta.now_ms();
        anyhow::Ok((clock, meta.newest_uid().await?))
    };
    let (clock, newest) = match looking.await {
        Ok(found) => found,
        Err(error) => {
            let error = report.quoted(&format!("{error:#}"));
            return report.wrong("open", &error);
        }
    };
    // Nodes of a cluster issue uids by the clock of Redis.
    let newest = newest.filter(|_| !config.is_clustered());
    let ahead = newest.and_then(|newest| uids_are_ahead(newest.issued_ms().cast_signed(), clock));
    if let Some(problem) = clock_differs(now_ms(), clock) {
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
