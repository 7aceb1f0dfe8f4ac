//! `osproxy s3-key`: manages keys of the S3 API.

use std::io::Write;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use osproxy_core::auth::{S3KeyRecord, S3MasterKey, find_master_key};
use osproxy_meta::Meta;
use osproxy_types::tenant::Tenant;
use serde::Serialize;

use super::{InitArgs, format_timestamp, open_meta, open_or_init_meta};
use crate::{config::LoadedConfig, wiring::s3_master_key};

/// Maximum length of a label, in bytes.
const MAX_LABEL_BYTES: usize = 255;
/// Lengths of the name of a bucket, in bytes.
const BUCKET_BYTES: std::ops::RangeInclusive<usize> = 3..=63;
/// Maximum number of buckets that a key can be limited to.
const MAX_BUCKETS: usize = 1000;

/// Subcommands of `osproxy s3-key`.
#[derive(Subcommand)]
pub enum S3KeyCommand {
    /// Create a key and print its access key id and its secret; the secret cannot be shown again.
    /// To rotate a key, create another one and revoke the old one.
    Create {
        /// Properties of the key.
        #[command(flatten)]
        properties: NewS3KeyArgs,
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
    /// Revoke a key: all nodes reject it within 5 seconds.
    Revoke {
        /// The access key id.
        id: String,
    },
}

/// Properties of a new key.
#[derive(Args)]
pub struct NewS3KeyArgs {
    /// Description of the key, for people.
    #[arg(long, default_value = "")]
    label: String,
    /// Tenant whose buckets the key can access.
    #[arg(long, default_value_t = Tenant::default())]
    tenant: Tenant,
    /// Comma-separated buckets that the key can access; they need not exist yet [default: all
    /// buckets of the tenant].
    #[arg(long, value_delimiter = ',')]
    buckets: Option<Vec<String>>,
    /// Whether the key permits no changes.
    #[arg(long)]
    read_only: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// A new key as JSON.
#[derive(Serialize)]
struct CreatedLine<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
}

/// A line of JSON output.
#[derive(Serialize)]
struct KeyLine<'a> {
    access_key_id: &'a str,
    state: &'a str,
    label: &'a str,
    tenant: &'a str,
    buckets: Option<&'a [String]>,
    read_only: bool,
    created_at: i64,
    revoked_at: Option<i64>,
}

/// Creates, lists or revokes keys.
pub fn run(loaded: &LoadedConfig, command: S3KeyCommand) -> anyhow::Result<()> {
    let config = &loaded.config;
    // Reads files, so before the runtime starts.
    let masters = match &command {
        S3KeyCommand::Create { .. } => s3_master_key::existing_or_new(config)?,
        S3KeyCommand::Ls { .. } => s3_master_key::existing(config)?,
        S3KeyCommand::Revoke { .. } => Vec::new(),
    };
    super::block_on(async {
        match command {
            S3KeyCommand::Create { properties, init } => {
                create(&open_or_init_meta(config, init).await?, &masters, properties).await
            }
            S3KeyCommand::Ls { json } => list(&open_meta(config).await?, &masters, json).await,
            S3KeyCommand::Revoke { id } => revoke(&open_meta(config).await?, &id).await,
        }
    })
}

async fn create(meta: &Meta, masters: &[S3MasterKey], properties: NewS3KeyArgs) -> anyhow::Result<()> {
    let NewS3KeyArgs { label, tenant, buckets, read_only, json } = properties;
    if label.len() > MAX_LABEL_BYTES || label.contains('\0') {
        bail!("the label must have at most {MAX_LABEL_BYTES} bytes and no NUL");
    }
    check_buckets(buckets.as_deref().unwrap_or_default())?;
    let master = masters.first().context("there is no master key")?;
    warn_about_other_master_keys(&meta.access.s3_keys().await?, masters);
    let id = master.generate_id().context("cannot generate a key")?;
    let record = S3KeyRecord {
        id: id.clone(),
        label,
        tenant,
        buckets,
        read_only,
        master_key: master.fingerprint(),
        created_at: meta.now_ms(),
        revoked_at: None,
    };
    meta.access.create_s3_key(record).await?;
    let secret = master.secret(&id);
    let line = CreatedLine { access_key_id: &id, secret_access_key: secret.reveal() };
    super::print_line(&if json {
        serde_json::to_string(&line)?
    } else {
        format!("access key id:     {id}\nsecret access key: {}", secret.reveal())
    });
    Ok(())
}

fn check_buckets(buckets: &[String]) -> anyhow::Result<()> {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    if buckets.len() > MAX_BUCKETS {
        bail!("a key can be limited to at most {MAX_BUCKETS} buckets");
    }
    match buckets.iter().find(|name| !BUCKET_BYTES.contains(&name.len()) || !name.bytes().all(is_plain)) {
        Some(name) => bail!(
            "{name:?} is not the name of a bucket: it must have 3 to 63 characters of a-z, 0-9, '-' and '.'"
        ),
        None => Ok(()),
    }
}

/// Warns if the nodes seem to have another master key than this command.
fn warn_about_other_master_keys(keys: &[S3KeyRecord], masters: &[S3MasterKey]) {
    let active = || keys.iter().filter(|key| key.revoked_at.is_none());
    if active().next().is_some() && !active().any(|key| find_master_key(masters, &key.master_key).is_some()) {
        let _ = writeln!(
            std::io::stderr(),
            "warning: all other keys were created with another master key; if the nodes have that one, they \
             reject the new key. Run this command with the settings of the nodes."
        );
    }
}

fn state(key: &S3KeyRecord, masters: &[S3MasterKey]) -> &'static str {
    match find_master_key(masters, &key.master_key) {
        _ if key.revoked_at.is_some() => "revoked",
        Some(_) => "active",
        None => "unusable",
    }
}

async fn list(meta: &Meta, masters: &[S3MasterKey], json: bool) -> anyhow::Result<()> {
    let keys = meta.access.s3_keys().await?;
    if json {
        for key in &keys {
            let line = KeyLine {
                access_key_id: &key.id,
                state: state(key, masters),
                label: &key.label,
                tenant: key.tenant.as_str(),
                buckets: key.buckets.as_deref(),
                read_only: key.read_only,
                created_at: key.created_at,
                revoked_at: key.revoked_at,
            };
            super::print_line(&serde_json::to_string(&line)?);
        }
        return Ok(());
    }
    let header = format!(
        "{:<20}  {:<8}  {:<16}  {:<10}  {:<20}  {:<24}  {}",
        "ACCESS KEY ID", "STATE", "TENANT", "ACCESS", "CREATED", "BUCKETS", "LABEL"
    );
    let rows = keys.iter().map(|key| {
        format!(
            "{:<20}  {:<8}  {:<16}  {:<10}  {:<20}  {:<24}  {}",
            key.id,
            state(key, masters),
            key.tenant.as_str(),
            if key.read_only { "read-only" } else { "read-write" },
            format_timestamp(key.created_at),
            key.buckets.as_ref().map_or_else(|| "all".to_owned(), |buckets| buckets.join(",")),
            key.label.escape_debug(),
        )
    });
    super::print_table(&header, rows);
    Ok(())
}

async fn revoke(meta: &Meta, id: &str) -> anyhow::Result<()> {
    if meta.access.revoke_s3_key(id).await? {
        super::print_line(&format!("S3 key {id} is revoked"));
        return Ok(());
    }
    match meta.access.s3_key(id).await? {
        Some(_) => bail!("S3 key {id} is already revoked"),
        None => bail!("there is no S3 key {id:?}"),
    }
}
