//! `osproxy key`: manages API keys.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use osproxy_core::auth::ApiKey;
use osproxy_meta::{ApiKeyRecord, Meta};
use osproxy_types::{scope::Scopes, tenant::Tenant};
use serde::Serialize;
use time::OffsetDateTime;

use super::{InitArgs, format_timestamp, open_meta, open_or_init_meta};
use crate::config::LoadedConfig;

/// Maximum length of a label, in bytes.
const MAX_LABEL_BYTES: usize = 255;

/// Subcommands of `osproxy key`.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// Create a key and print it; it cannot be shown again.
    Create {
        /// Properties of the key.
        #[command(flatten)]
        properties: NewKeyArgs,
        /// Whether to create a missing database.
        #[command(flatten)]
        init: InitArgs,
    },
    /// List the keys without their secrets.
    Ls {
        /// Print one JSON object per line, with times in milliseconds since the Unix epoch.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key: all nodes reject it within 5 seconds. Links that were created with it stay
    /// valid.
    Revoke {
        /// Id of the key as printed by `ls`, or the whole key.
        id: String,
    },
}

/// Properties of a new key.
#[derive(Args)]
pub struct NewKeyArgs {
    /// Description of the key, for people.
    #[arg(long, default_value = "")]
    label: String,
    /// Tenant whose files the key can access.
    #[arg(long, default_value_t = Tenant::default())]
    tenant: Tenant,
    /// Comma-separated scopes: upload, read, delete, and admin for tasks, nodes and statistics.
    #[arg(long, default_value = "upload,read,delete")]
    scopes: Scopes,
    /// Number of days after which the key expires [default: it never expires].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    expires: Option<u32>,
    /// Requests per second that each node accepts with the key [default: unlimited].
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Largest file that may be created with the key, such as 2GiB [default: `uploads.max_size`].
    #[arg(long, value_name = "SIZE")]
    max_size: Option<bytesize::ByteSize>,
    /// Concurrent transfers through each node by links that were created with the key [default:
    /// unlimited].
    #[arg(long, value_name = "CONTENTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    transfers: Option<u32>,
}

/// A line of JSON output.
#[derive(Serialize)]
struct KeyLine<'a> {
    id: &'a str,
    label: &'a str,
    tenant: &'a str,
    scopes: String,
    max_rate: Option<u32>,
    max_size: Option<u64>,
    max_transfers: Option<u32>,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
}

/// Creates, lists or revokes keys.
pub fn run(loaded: &LoadedConfig, command: KeyCommand) -> anyhow::Result<()> {
    super::block_on(async {
        match command {
            KeyCommand::Create { properties, init } => {
                create(&open_or_init_meta(&loaded.config, init).await?, properties).await
            }
            KeyCommand::Ls { json } => list(&open_meta(&loaded.config).await?, json).await,
            KeyCommand::Revoke { id } => revoke(&open_meta(&loaded.config).await?, &id).await,
        }
    })
}

async fn create(meta: &Meta, properties: NewKeyArgs) -> anyhow::Result<()> {
    let NewKeyArgs { label, tenant, scopes, expires, rate, max_size, transfers } = properties;
    if label.len() > MAX_LABEL_BYTES || label.contains('\0') {
        bail!("the label must have at most {MAX_LABEL_BYTES} bytes and no NUL");
    }
    let key = ApiKey::generate().context("cannot generate a key")?;
    let now = meta.now_ms();
    let day_ms = 24 * 3_600_000;
    meta.access
        .create_api_key(ApiKeyRecord {
            id: key.id().to_owned(),
            hash: key.secret_hash(),
            label,
            tenant,
            scopes,
            max_rate: rate,
            max_size: max_size.map(|size| size.as_u64()),
            max_transfers: transfers,
            created_at: now,
            expires_at: expires.map(|days| now + i64::from(days) * day_ms),
            revoked_at: None,
        })
        .await?;
    super::print_line(&key.reveal());
    Ok(())
}

async fn list(meta: &Meta, json: bool) -> anyhow::Result<()> {
    let keys = meta.access.api_keys().await?;
    if json {
        for key in &keys {
            super::print_line(&serde_json::to_string(&key_line(key))?);
        }
        return Ok(());
    }
    let header = format!(
        "{:<12}  {:<8}  {:<16}  {:<24}  {:<20}  {:<20}  {:>8}  {:>10}  {:>9}  {}",
        "ID", "STATE", "TENANT", "SCOPES", "CREATED", "EXPIRES", "RATE", "MAX SIZE", "TRANSFERS", "LABEL"
    );
    let now = OffsetDateTime::now_utc().unix_timestamp() * 1000;
    let rows = keys.iter().map(|key| {
        let state = match key {
            ApiKeyRecord { revoked_at: Some(_), .. } => "revoked",
            key if !key.is_valid(now) => "expired",
            _ => "active",
        };
        let unlimited = || "-".to_owned();
        format!(
            "{:<12}  {state:<8}  {:<16}  {:<24}  {:<20}  {:<20}  {:>8}  {:>10}  {:>9}  {}",
            key.id,
            key.tenant.as_str(),
            key.scopes.to_string(),
            format_timestamp(key.created_at),
            key.expires_at.map_or_else(unlimited, format_timestamp),
            key.max_rate.map_or_else(unlimited, |rate| rate.to_string()),
            key.max_size.map_or_else(unlimited, |size| bytesize::ByteSize(size).to_string()),
            key.max_transfers.map_or_else(unlimited, |max| max.to_string()),
            key.label.escape_debug(),
        )
    });
    super::print_table(&header, rows);
    Ok(())
}

fn key_line(key: &ApiKeyRecord) -> KeyLine<'_> {
    KeyLine {
        id: &key.id,
        label: &key.label,
        tenant: key.tenant.as_str(),
        scopes: key.scopes.to_string(),
        max_rate: key.max_rate,
        max_size: key.max_size,
        max_transfers: key.max_transfers,
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
    }
}

async fn revoke(meta: &Meta, id: &str) -> anyhow::Result<()> {
    let id = ApiKey::parse(id).map_or_else(|| id.to_owned(), |key| key.id().to_owned());
    if meta.access.revoke_api_key(&id).await? {
        super::print_line(&format!("key {id} is revoked"));
        return Ok(());
    }
    match meta.access.api_key(&id).await? {
        Some(_) => bail!("key {id} is already revoked"),
        None => bail!("there is no key {id:?}"),
    }
}
