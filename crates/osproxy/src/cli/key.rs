//! `osproxy key`

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use time::OffsetDateTime;

use super::{Init, moment, open, open_or_init};
use crate::{
    api_key::{ApiKey, Scopes},
    config::Loaded,
    meta::{KeptKey, Meta},
    tenant::Tenant,
};

/// Longest label, in bytes.
const MAX_LABEL: usize = 255;

/// What to do about API keys.
#[derive(Subcommand)]
pub enum Verb {
    /// Create a key and print it. It is shown only now.
    Create {
        /// What it is to be.
        #[command(flatten)]
        wanted: Wanted,
        /// Whether to create the database.
        #[command(flatten)]
        init: Init,
    },
    /// List the keys, without their secrets.
    Ls {
        /// One JSON object a line instead, with times in milliseconds since the Unix epoch.
        #[arg(long)]
        json: bool,
    },
    /// Make a key worthless, everywhere within 5 seconds. Links that were made with it stay good.
    Revoke {
        /// What `ls` calls it; the whole key does, too.
        id: String,
    },
}

/// What a key is to be.
#[derive(Args)]
pub struct Wanted {
    /// What people call it.
    #[arg(long, default_value = "")]
    label: String,
    /// Whose files it is for; no other tenant sees them.
    #[arg(long, default_value_t = Tenant::default())]
    tenant: Tenant,
    /// What it allows, with commas between: upload, read, delete, and admin, which is for tasks, nodes and statistics.
    #[arg(long, default_value = "upload,read,delete")]
    scopes: Scopes,
    /// From when on it is worth nothing: after so many days. For ever otherwise.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    expires: Option<u32>,
    /// How many requests a second each node takes with it.
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Largest file that it may create, such as 2GiB.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<bytesize::ByteSize>,
    /// How many contents may be on their way at the same time by links that were made with it, through each node.
    #[arg(long, value_name = "CONTENTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    transfers: Option<u32>,
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
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

/// Makes, lists or revokes keys.
pub fn run(loaded: &Loaded, verb: Verb) -> anyhow::Result<()> {
    super::block_on(async {
        match verb {
            Verb::Create { wanted, init } => create(&open_or_init(&loaded.config, init).await?, wanted).await,
            Verb::Ls { json } => list(&open(&loaded.config).await?, json).await,
            Verb::Revoke { id } => revoke(&open(&loaded.config).await?, &id).await,
        }
    })
}

async fn create(meta: &Meta, wanted: Wanted) -> anyhow::Result<()> {
    let Wanted { label, tenant, scopes, expires, rate, max_size, transfers } = wanted;
    if label.len() > MAX_LABEL || label.contains('\0') {
        bail!("a label has at most {MAX_LABEL} bytes, none of them NUL");
    }
    let key = ApiKey::generate().context("cannot make a key")?;
    let now = meta.now_ms();
    let day = 24 * 3_600_000;
    meta.create_api_key(KeptKey {
        id: key.id().to_owned(),
        hash: key.hash(),
        label,
        tenant,
        scopes,
        max_rate: rate,
        max_size: max_size.map(|size| size.as_u64()),
        max_transfers: transfers,
        created_at: now,
        expires_at: expires.map(|days| now + i64::from(days) * day),
        revoked_at: None,
    })
    .await?;
    super::say(&key.reveal());
    Ok(())
}

async fn list(meta: &Meta, json: bool) -> anyhow::Result<()> {
    let keys = meta.api_keys().await?;
    if json {
        for key in &keys {
            super::say(&serde_json::to_string(&line(key))?);
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
            KeptKey { revoked_at: Some(_), .. } => "revoked",
            key if !key.holds(now) => "expired",
            _ => "good",
        };
        let unlimited = || "-".to_owned();
        format!(
            "{:<12}  {state:<8}  {:<16}  {:<24}  {:<20}  {:<20}  {:>8}  {:>10}  {:>9}  {}",
            key.id,
            key.tenant.as_str(),
            key.scopes.to_string(),
            moment(key.created_at),
            key.expires_at.map_or_else(unlimited, moment),
            key.max_rate.map_or_else(unlimited, |rate| rate.to_string()),
            key.max_size.map_or_else(unlimited, |size| bytesize::ByteSize(size).to_string()),
            key.max_transfers.map_or_else(unlimited, |most| most.to_string()),
            key.label.escape_debug(),
        )
    });
    super::print_table(&header, rows);
    Ok(())
}

fn line(key: &KeptKey) -> Line<'_> {
    Line {
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
    if meta.revoke_api_key(&id).await? {
        super::say(&format!("key {id} is revoked"));
        return Ok(());
    }
    match meta.api_key(&id).await? {
        Some(_) => bail!("key {id} was revoked before"),
        None => bail!("there is no key {id:?}"),
    }
}
