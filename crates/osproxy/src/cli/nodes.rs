//! `osproxy nodes`: lists the nodes of a cluster.

use anyhow::Context;
use clap::Args;
use osproxy_cluster::{NodeDescription, RegisteredNode, list_registry};
use serde::Serialize;

use super::format_timestamp;
use crate::config::LoadedConfig;

/// Options of `osproxy nodes`.
#[derive(Clone, Copy, Args)]
pub struct NodesArgs {
    /// Print one JSON object per line, with times in milliseconds since the Unix epoch.
    #[arg(long)]
    json: bool,
}

/// A line of JSON output.
#[derive(Serialize)]
struct NodeLine<'a> {
    #[serde(flatten)]
    node: &'a NodeDescription,
    heard_at: i64,
}

/// Lists the live nodes in the registry in Redis.
pub fn run(loaded: &LoadedConfig, options: NodesArgs) -> anyhow::Result<()> {
    let config = &loaded.config;
    if !config.is_clustered() {
        super::print_line(
            "this configuration is for a single node: a cluster needs a database server and Redis",
        );
        return Ok(());
    }
    let redis = config.redis.settings().map_err(|problems| anyhow::Error::msg(problems.join("; ")))?;
    let redis = redis.context("there is no Redis")?;
    let nodes = super::block_on(async { Ok(list_registry(&redis).await?) })?;
    if options.json {
        for RegisteredNode { node, last_heartbeat } in &nodes {
            super::print_line(&serde_json::to_string(&NodeLine { node, heard_at: *last_heartbeat })?);
        }
        return Ok(());
    }
    let header = format!(
        "{:<16}  {:<21}  {:<9}  {:<20}  {:<20}  {:>8}  {:>5}  {:>5}  {}",
        "ID", "ADDRESS", "VERSION", "STARTED", "HEARTBEAT", "REQUESTS", "TASKS", "LOAD", "STORES"
    );
    let rows = nodes.iter().map(|RegisteredNode { node, last_heartbeat }| {
        format!(
            "{:<16}  {:<21}  {:<9}  {:<20}  {:<20}  {:>8}  {:>5}  {:>5.2}  {}",
            node.id,
            node.address,
            node.version,
            format_timestamp(node.started_at),
            format_timestamp(*last_heartbeat),
            node.load.requests,
            node.load.tasks,
            node.load.load_average,
            node.stores.join(","),
        )
    });
    super::print_table(&header, rows);
    Ok(())
}
