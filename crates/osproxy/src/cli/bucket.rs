//! `osproxy bucket`: lists buckets, and makes them public or private.

use anyhow::bail;
use clap::Subcommand;
use osproxy_meta::BucketChanges;
use osproxy_types::tenant::Tenant;
use serde::Serialize;

use super::open_meta;
use crate::config::LoadedConfig;

/// Maximum number of buckets to read in one query.
const PAGE: u64 = 1000;

/// Subcommands of `osproxy bucket`.
#[derive(Subcommand)]
pub enum BucketCommand {
    /// List the buckets of a tenant.
    Ls {
        /// Owner of the buckets.
        #[arg(long, default_value_t = Tenant::default())]
        tenant: Tenant,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Let everybody read the objects of a bucket, or only holders of keys. Nodes notice within 5
    /// seconds.
    Set {
        /// Name of the bucket.
        name: String,
        /// Owner of the bucket.
        #[arg(long, default_value_t = Tenant::default())]
        tenant: Tenant,
        /// Whether everybody may read the objects.
        #[arg(long, action = clap::ArgAction::Set)]
        public_read: bool,
    },
}

/// A line of JSON output.
#[derive(Serialize)]
struct BucketLine<'a> {
    name: &'a str,
    created_at: String,
    public_read: bool,
}

/// Lists or changes buckets.
pub fn run(loaded: &LoadedConfig, command: BucketCommand) -> anyhow::Result<()> {
    super::block_on(async {
        let meta = open_meta(&loaded.config).await?;
        match command {
            BucketCommand::Set { name, tenant, public_read } => {
                let changes = BucketChanges { is_public: Some(public_read), ..BucketChanges::default() };
                if !meta.objects.update_bucket(tenant.clone(), name.clone(), changes).await? {
                    bail!("the tenant {tenant} has no bucket {name}; `osproxy bucket ls` lists its buckets");
                }
                super::print_line(if public_read { "public" } else { "private" });
            }
            BucketCommand::Ls { tenant, json } => {
                for bucket in meta.objects.buckets(&tenant, None, PAGE).await? {
                    let created_at = osproxy_types::timestamp::rfc3339(bucket.created_at);
                    let line = BucketLine { name: &bucket.name, created_at, public_read: bucket.is_public };
                    if json {
                        super::print_line(&serde_json::to_string(&line)?);
                    } else {
                        let access = if line.public_read { "public" } else { "private" };
                        super::print_line(&format!("{:<63}  {:<7}  {}", line.name, access, line.created_at));
                    }
                }
            }
        }
        Ok(())
    })
}
