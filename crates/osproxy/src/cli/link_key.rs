//! `osproxy link-key`: manages the keys that sign links.

use anyhow::{Context, bail};
use clap::Subcommand;

use osproxy_meta::Meta;

use super::format_timestamp;
use crate::config::LoadedConfig;

/// Subcommands of `osproxy link-key`.
#[derive(Clone, Debug, Subcommand)]
pub enum LinkKeyCommand {
    /// Create a new signing key. Links signed with older keys stay valid. Within 1 second, all
    /// nodes accept links that are signed with the new key. Within 10 seconds, all nodes sign with
    /// the new key.
    Rotate,
    /// List the keys, newest first: the first signs, all verify.
    Ls,
    /// Delete a key that no longer signs: all links signed with it become invalid within 10
    /// seconds.
    Revoke {
        /// Id of the key as printed by `ls`; signatures begin with it.
        id: String,
    },
}

/// Creates, lists or deletes keys.
pub fn run(loaded: &LoadedConfig, command: LinkKeyCommand) -> anyhow::Result<()> {
    if !loaded.config.links.keys.is_empty() {
        bail!("the keys are set in the configuration: put a new key first in `links.keys`");
    }
    super::block_on(async {
        let meta = super::open_meta(&loaded.config).await?;
        match command {
            LinkKeyCommand::Rotate => rotate(&meta).await,
            LinkKeyCommand::Ls => list(&meta).await,
            LinkKeyCommand::Revoke { id } => revoke(&meta, &id).await,
        }
    })
}

async fn rotate(meta: &Meta) -> anyhow::Result<()> {
    let (id, secret) = osproxy_core::generate_link_key().context("cannot generate a key")?;
    meta.access.add_link_key(id.clone(), secret).await?;
    super::print_line(&format!("{id} now signs links"));
    Ok(())
}

async fn list(meta: &Meta) -> anyhow::Result<()> {
    let keys = meta.access.link_key_creation_times().await?;
    let rows = keys.into_iter().enumerate().map(|(position, (id, created))| {
        let usage = if position == 0 { "sign" } else { "verify" };
        format!("{id:<10}  {usage:<8}  {}", format_timestamp(created))
    });
    super::print_table(&format!("{:<10}  {:<8}  {}", "ID", "USE", "CREATED"), rows);
    Ok(())
}

async fn revoke(meta: &Meta, id: &str) -> anyhow::Result<()> {
    if meta.access.remove_link_key(id).await? {
        super::print_line(&format!("links that were signed with {id} are no longer valid"));
        return Ok(());
    }
    match meta.access.link_key_creation_times().await?.first() {
        Some((newest, _)) if newest == id => {
            bail!("{id} is the signing key; run `osproxy link-key rotate` first")
        }
        _ => bail!("there is no key {id:?}"),
    }
}
