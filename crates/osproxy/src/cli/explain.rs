//! `osproxy explain`

mod story;

use anyhow::Context;
use clap::Args;

use crate::{
    app,
    config::Loaded,
    meta::{Here, Meta},
    tasks::handlers::delete_blob,
    uid::Uid,
};
use story::Story;

/// Options of `osproxy explain`.
#[derive(Args, Clone, Copy)]
pub struct Options {
    /// Uid of the file, in any state.
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    uid: i64,
    /// Print one JSON object, with times in milliseconds since the Unix epoch.
    #[arg(long)]
    json: bool,
}

/// Prints the history of an upload from the database.
pub fn run(loaded: &Loaded, options: Options) -> anyhow::Result<()> {
    super::block_on(async {
        let location = super::existing(&loaded.config).await?;
        let meta = Meta::open_existing(&location, Here::default(), app::memory(&loaded.config)).await;
        let meta = meta.map_err(|error| anyhow::Error::msg(Meta::explain(&location, &error)))?;
        let story = story(&meta, options.uid).await?;
        if options.json {
            super::say(&serde_json::to_string(&story)?);
        } else {
            story.lines().iter().for_each(|line| super::say(line));
        }
        Ok(())
    })
}

async fn story(meta: &Meta, uid: i64) -> anyhow::Result<Story> {
    let history = meta.history(Uid::from_recorded(uid)).await?;
    let history = history.with_context(|| {
        format!(
            "there is no file {uid}: it was never created, or its record was removed after it was deleted"
        )
    })?;
    // The id of the first write's blob is the uid of the file.
    let mut blobs = vec![uid];
    blobs.extend(history.received_as);
    blobs.extend(history.blob.as_ref().map(|blob| blob.id));
    blobs.sort_unstable();
    blobs.dedup();
    // All background tasks for a blob have the same payload.
    let payloads: Result<Vec<_>, _> = blobs
        .iter()
        .map(|blob_id| serde_json::to_string(&delete_blob::Payload { blob_id: *blob_id }))
        .collect();
    let tasks = meta.tasks_with(&payloads?).await?;
    Ok(Story::new(uid, history, tasks))
}
