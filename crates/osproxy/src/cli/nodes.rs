//! `osproxy nodes`

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::moment;
use crate::{
    config::Loaded,
    coord::{KnownNode, Node, registry},
};

/// Options of `osproxy nodes`.
#[derive(Clone, Copy, Args)]
pub struct Options {
    /// Print one JSON object per line, with times in milliseconds since the Unix epoch.
    #[arg(long)]
    json: bool,
}

/// A line of JSON output.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    node: &'a Node,
    heard_at: i64,
}

/// Lists the live nodes in the registry in Redis.
pub fn run(loaded: &Loaded, options: Options) -> anyhow::Result<()> {
    let config = &loaded.config;
    if !config.is_clustered() {
        super::say("this configuration is for a single node: a cluster needs a database server and Redis");
        return Ok(());
    }
    let redis = config.redis.redis().map_err(|problems| anyhow::Error::msg(problems.join("; ")))?;
    let redis = redis.context("there is no Redis")?;
    let nodes = super::block_on(async { Ok(registry(&redis).await?) })?;
    if options.json {
        for KnownNode { node, last_heartbeat: heard_at } in &nodes {
            super::say(&serde_json::to_string(&Line { node, heard_at: *heard_at })?);
        }
        return Ok(());
    }
    let header = format!(
        "{:<16}  {:<21}  {:<9}  {:<20}  {:<20}  {:>8}  {:>5}  {:>5}  {}",
        "ID", "ADDRESS", "VERSION", "STARTED", "HEARD", "REQUESTS", "TASKS", "LOAD", "STORES"
    );
    let rows = nodes.iter().map(|KnownNode { node, last_heartbeat: heard_at }| {
        format!(
            "{:<16}  {:<21}  {:<9}  {:<20}  {:<20}  {:>8}  {:>5}  {:>5.2}  {}",
            node.id,
            node.address,
            node.version,
            moment(node.started_at),
            moment(*heard_at),
            node.load.requests,
            node.load.tasks,
            node.load.load_average,
            node.stores.join(","),
        )
    });
    super::print_table(&header, rows);
    Ok(())
}
