//! `osproxy quarantine`: lists, releases and deletes files that processing found dangerous.

use anyhow::bail;
use clap::Subcommand;
use osproxy_meta::{Meta, QuarantinedFile, VerdictOutcome};
use osproxy_types::uid::Uid;
use serde::Serialize;

use super::{format_timestamp, new_task_id, open_meta, print_line, print_table};
use crate::config::LoadedConfig;

/// Number of files that one query reads.
const PAGE: u64 = 1000;

/// Subcommands of `osproxy quarantine`.
#[derive(Clone, Copy, Subcommand)]
pub enum QuarantineCommand {
    /// List the files in quarantine, oldest first.
    Ls {
        /// Print one JSON object per line, with the store and the key of the object.
        #[arg(long)]
        json: bool,
    },
    /// Make a file readable, and all other files with the same content.
    Release {
        /// Uid of the file.
        uid: Uid,
    },
    /// Remove a file's content; its object is deleted with the last file that has it.
    Delete {
        /// Uid of the file.
        uid: Uid,
    },
}

/// A line of JSON output.
#[derive(Serialize)]
struct Line<'a> {
    uid: String,
    tenant: &'a str,
    name: &'a str,
    size: u64,
    since: i64,
    store: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    object_key: &'a str,
    verdict: serde_json::Value,
}

/// Lists or changes files in quarantine, even while services are running.
pub fn run(loaded: &LoadedConfig, command: QuarantineCommand) -> anyhow::Result<()> {
    super::block_on(async {
        let meta = open_meta(&loaded.config).await?;
        match command {
            QuarantineCommand::Ls { json } => list(&meta, json).await,
            QuarantineCommand::Release { uid } => {
                check(uid, meta.processing.release(uid, new_task_id()?).await?)
            }
            QuarantineCommand::Delete { uid } => {
                check(uid, meta.processing.delete_quarantined(uid, new_task_id()?).await?)
            }
        }
    })
}

fn check(uid: Uid, outcome: VerdictOutcome) -> anyhow::Result<()> {
    match outcome {
        VerdictOutcome::Recorded => Ok(()),
        VerdictOutcome::Superseded => bail!("the file {uid} is not in quarantine"),
    }
}

async fn list(meta: &Meta, json: bool) -> anyhow::Result<()> {
    let mut files: Vec<QuarantinedFile> = Vec::new();
    loop {
        let page = meta.processing.quarantined(files.last().map(|file| file.uid), PAGE).await?;
        if page.is_empty() {
            break;
        }
        files.extend(page);
    }
    let verdict = |file: &QuarantinedFile| serde_json::from_str(&file.record).unwrap_or_default();
    if json {
        for file in &files {
            let line = Line {
                uid: file.uid.to_string(),
                tenant: file.tenant.as_str(),
                name: &file.name,
                size: file.size,
                since: file.since,
                store: &file.store,
                object_key: &file.object_key,
                verdict: verdict(file),
            };
            print_line(&serde_json::to_string(&line)?);
        }
        return Ok(());
    }
    let header =
        format!("{:<20} {:<20} {:<16} {:>12}  {:<32} REASON", "UID", "SINCE", "TENANT", "SIZE", "NAME");
    let rows = files.iter().map(|file| {
        let verdict: serde_json::Value = verdict(file);
        let reason = verdict.get("reason").and_then(serde_json::Value::as_str).unwrap_or_default();
        format!(
            "{:<20} {:<20} {:<16} {:>12}  {:<32} {reason}",
            file.uid.to_string(),
            format_timestamp(file.since),
            file.tenant.as_str(),
            file.size,
            file.name.escape_debug().to_string(),
        )
    });
    print_table(&header, rows);
    Ok(())
}
