//! `osproxy explain`: prints the history of an upload.

mod history;

use anyhow::Context;
use clap::Args;
use history::UploadHistory;
use osproxy_meta::{BlobPayload, Meta, NodeStores};
use osproxy_types::uid::Uid;

use crate::{config::LoadedConfig, wiring};

/// Maximum number of events to print; the newest ones.
const MAX_EVENTS: u64 = 1000;

/// Options of `osproxy explain`.
#[derive(Args, Clone, Copy)]
pub struct ExplainArgs {
    /// Uid of the file, in any state.
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    uid: i64,
    /// Print one JSON object, with times in milliseconds since the Unix epoch.
    #[arg(long)]
    json: bool,
}

/// Prints the history of an upload from the database.
pub fn run(loaded: &LoadedConfig, options: ExplainArgs) -> anyhow::Result<()> {
    super::block_on(async {
        let location = super::existing_database(&loaded.config).await?;
        let database = wiring::database_options(&loaded.config, NodeStores::default());
        let meta = Meta::open_existing(&location, database).await;
        let meta = meta.map_err(|error| anyhow::Error::msg(Meta::open_error_message(&location, &error)))?;
        let history = load_history(&meta, options.uid).await?;
        if options.json {
            super::print_line(&serde_json::to_string(&history)?);
        } else {
            history.lines().iter().for_each(|line| super::print_line(line));
        }
        Ok(())
    })
}

async fn load_history(meta: &Meta, uid: i64) -> anyhow::Result<UploadHistory> {
    let file = meta.admin.file_history(Uid::from_db(uid)).await?;
    let file = file.with_context(|| {
        format!("there is no file {uid}: it was never created, or it was deleted and its row has been purged")
    })?;
    // The blob of a file's first write has the file's uid as its id.
    let mut blobs = vec![uid];
    blobs.extend(file.received_as);
    blobs.extend(file.blob.as_ref().map(|blob| blob.id));
    blobs.sort_unstable();
    blobs.dedup();
    // All background tasks for a blob have the same payload.
    let payloads: Result<Vec<_>, _> =
        blobs.iter().map(|blob_id| serde_json::to_string(&BlobPayload { blob_id: *blob_id })).collect();
    let tasks = meta.admin.tasks_of_file(Uid::from_db(uid), &payloads?).await?;
    let events = meta.events.of_file(Uid::from_db(uid), MAX_EVENTS).await?;
    Ok(UploadHistory::new(uid, file, tasks, events))
}
