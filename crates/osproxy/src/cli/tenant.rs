//! `osproxy tenant`

use std::str::FromStr;

use bytesize::ByteSize;
use clap::Subcommand;
use serde::Serialize;

use super::key::open;
use crate::{
    config::Loaded,
    meta::{Meta, Usage},
    tenant::Tenant,
};

/// What to do about tenants.
#[derive(Subcommand)]
pub enum Verb {
    /// Say how many bytes the files of a tenant may have together, and count those that they have. Takes some seconds the
    /// first time.
    Set {
        /// Whose.
        name: Tenant,
        /// How many, such as 10GiB; `none` for as many as they like.
        #[arg(long, value_name = "SIZE")]
        max_bytes: Quota,
    },
    /// List the tenants that have a quota, and what they use of it.
    Ls {
        /// One JSON object a line instead.
        #[arg(long)]
        json: bool,
    },
}

/// How many bytes a tenant may have; `None`: without a limit.
#[derive(Clone, Copy)]
pub struct Quota(Option<u64>);

impl FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        Ok(Self(Some(text.parse::<ByteSize>()?.as_u64())))
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    tenant: &'a str,
    max_bytes: Option<u64>,
    used: u64,
}

/// Sets a quota, or lists them.
pub fn run(loaded: &Loaded, verb: Verb) -> anyhow::Result<()> {
    super::block_on(async {
        match verb {
            Verb::Set { name, max_bytes: Quota(max_bytes) } => {
                let usage = open(&loaded.config, true).await?.set_quota(&name, max_bytes).await?;
                list(&[usage]);
                Ok(())
            }
            Verb::Ls { json: true } => tell(&open(&loaded.config, false).await?).await,
            Verb::Ls { json: false } => {
                list(&open(&loaded.config, false).await?.usage().await?);
                Ok(())
            }
        }
    })
}

async fn tell(meta: &Meta) -> anyhow::Result<()> {
    for Usage { tenant, max_bytes, used } in meta.usage().await? {
        let line = Line { tenant: tenant.as_str(), max_bytes, used };
        super::say(&serde_json::to_string(&line)?);
    }
    Ok(())
}

fn list(usage: &[Usage]) {
    super::say(&format!("{:<24}  {:>12}  {:>12}", "TENANT", "USED", "MAX BYTES"));
    for Usage { tenant, max_bytes, used } in usage {
        let max_bytes = max_bytes.map_or_else(|| "-".to_owned(), |max| ByteSize(max).to_string());
        super::say(&format!("{:<24}  {:>12}  {max_bytes:>12}", tenant.as_str(), ByteSize(*used).to_string()));
    }
}
