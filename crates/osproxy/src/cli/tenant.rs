//! `osproxy tenant`: manages quotas of tenants.

use std::str::FromStr;

use anyhow::bail;
use bytesize::ByteSize;
use clap::Subcommand;
use osproxy_meta::{Meta, TenantUsage};
use osproxy_types::tenant::Tenant;
use serde::Serialize;

use super::{InitArgs, open_meta, open_or_init_meta};
use crate::config::LoadedConfig;

/// Subcommands of `osproxy tenant`.
#[derive(Subcommand)]
pub enum TenantCommand {
    /// Set the quota of a tenant and count its usage; takes some seconds the first time.
    Set {
        /// Name of the tenant. It must have a key, a file or a quota, unless --new is given.
        name: Tenant,
        /// Maximum size of all files of the tenant together, such as 10GiB; `none` removes the
        /// limit.
        #[arg(long, value_name = "SIZE")]
        max_bytes: QuotaArg,
        /// Accept a tenant that has no key, file or quota yet.
        #[arg(long)]
        new: bool,
        /// Whether to create a missing database.
        #[command(flatten)]
        init: InitArgs,
    },
    /// List tenants with their quota and usage.
    Ls {
        /// Include tenants without a quota, and the bytes that each tenant stores. Scans all files:
        /// slow on large databases.
        #[arg(long)]
        all: bool,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
}

/// Maximum number of bytes of a tenant; `None`: unlimited.
#[derive(Clone, Copy)]
pub struct QuotaArg(Option<u64>);

impl FromStr for QuotaArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        Ok(Self(Some(text.parse::<ByteSize>()?.as_u64())))
    }
}

/// A line of JSON output.
#[derive(Serialize)]
struct TenantLine<'a> {
    tenant: &'a str,
    max_bytes: Option<u64>,
    used: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<u64>,
}

/// Sets a quota, or lists tenants.
pub fn run(loaded: &LoadedConfig, command: TenantCommand) -> anyhow::Result<()> {
    let config = &loaded.config;
    super::block_on(async {
        match command {
            TenantCommand::Set { name, max_bytes: QuotaArg(max_bytes), new, init } => {
                let meta = open_or_init_meta(config, init).await?;
                if !new && !meta.tenants.exists(&name).await? {
                    bail!("the tenant {name} has no key, file or quota; check the name, or pass --new");
                }
                let usage = meta.tenants.set_quota(&name, max_bytes).await?;
                print_text(&[TenantUsage { usage, stored: None }]);
            }
            TenantCommand::Ls { all, json } => {
                let tenants = load_tenants(&open_meta(config).await?, all).await?;
                if json {
                    print_json(&tenants)?;
                } else if tenants.is_empty() && !all {
                    super::print_line("no tenant has a quota; `osproxy tenant ls --all` lists every tenant");
                } else {
                    print_text(&tenants);
                }
            }
        }
        Ok(())
    })
}

async fn load_tenants(meta: &Meta, all: bool) -> anyhow::Result<Vec<TenantUsage>> {
    if all {
        return Ok(meta.tenants.usage().await?);
    }
    let with_quota = meta.tenants.quota_usage().await?;
    Ok(with_quota.into_iter().map(|usage| TenantUsage { usage, stored: None }).collect())
}

fn print_json(tenants: &[TenantUsage]) -> anyhow::Result<()> {
    for TenantUsage { usage, stored } in tenants {
        let line = TenantLine {
            tenant: usage.tenant.as_str(),
            max_bytes: usage.max_bytes,
            used: usage.used,
            stored: *stored,
        };
        super::print_line(&serde_json::to_string(&line)?);
    }
    Ok(())
}

/// Prints tenants as a table. `USED` is logical: content that several files share counts for each
/// of them. `STORED` counts shared content once.
fn print_text(tenants: &[TenantUsage]) {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string());
    let header = format!("{:<24}  {:>14}  {:>12}  {:>12}", "TENANT", "USED (LOGICAL)", "STORED", "MAX BYTES");
    let rows = tenants.iter().map(|TenantUsage { usage, stored }| {
        format!(
            "{:<24}  {:>14}  {:>12}  {:>12}",
            usage.tenant.as_str(),
            size(Some(usage.used)),
            size(*stored),
            size(usage.max_bytes)
        )
    });
    super::print_table(&header, rows);
}
