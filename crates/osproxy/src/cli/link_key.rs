//! `osproxy link-key`

use anyhow::{Context, bail};
use clap::Subcommand;

use super::moment;
use crate::{app, config::Loaded, meta::Meta};

/// What to do about the keys that sign links.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a key that signs from now on. Links that were signed before stay good. Nodes sign with it within 10 seconds, and
    /// know it as soon as they see a link that it signed.
    Rotate,
    /// List the keys, newest first: the first signs, all verify.
    Ls,
    /// Forget a key that does not sign any more: within 10 seconds all links that it signed are worth nothing.
    Revoke {
        /// What `ls` calls it, and what signatures begin with.
        id: String,
    },
}

/// Makes, lists or forgets keys.
pub fn run(loaded: &Loaded, verb: Verb) -> anyhow::Result<()> {
    if !loaded.config.links.keys.is_empty() {
        bail!("the keys stand in the configuration: put a new one in front of the others in `links.keys`");
    }
    super::block_on(async {
        let meta = super::open(&loaded.config).await?;
        match verb {
            Verb::Rotate => rotate(&meta).await,
            Verb::Ls => list(&meta).await,
            Verb::Revoke { id } => revoke(&meta, &id).await,
        }
    })
}

async fn rotate(meta: &Meta) -> anyhow::Result<()> {
    let (id, secret) = app::fresh_link_key().context("cannot make a key")?;
    meta.add_link_key(id.clone(), secret).await?;
    super::say(&format!("{id} signs links from now on"));
    Ok(())
}

async fn list(meta: &Meta) -> anyhow::Result<()> {
    let keys = meta.link_key_ages().await?;
    let rows = keys.into_iter().enumerate().map(|(at, (id, created))| {
        let usage = if at == 0 { "sign" } else { "verify" };
        format!("{id:<10}  {usage:<8}  {}", moment(created))
    });
    super::print_table(&format!("{:<10}  {:<8}  {}", "ID", "USE", "CREATED"), rows);
    Ok(())
}

async fn revoke(meta: &Meta, id: &str) -> anyhow::Result<()> {
    if meta.remove_link_key(id).await? {
        super::say(&format!("links that {id} signed are worth nothing"));
        return Ok(());
    }
    match meta.link_key_ages().await?.first() {
        Some((newest, _)) if newest == id => bail!("{id} signs links: rotate first"),
        _ => bail!("there is no key {id:?}"),
    }
}
