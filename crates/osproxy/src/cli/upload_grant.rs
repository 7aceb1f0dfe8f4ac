//! `osproxy upload-grant`: manages upload grants.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::{Args, Subcommand};
use osproxy_api::v1::{CreateUploadGrantRequest, UploadGrantLinks};
use osproxy_core::{
    auth::{GrantRecord, GrantRefusal, GrantTerms, UploadGrant},
    grant_links,
    ops::create_upload_grant::{GrantCreator, new_grant, record_grant},
    startup::load_link_keys,
};
use osproxy_meta::Meta;
use osproxy_types::{tenant::Tenant, uid::Uid};
use serde::Serialize;

use super::{format_timestamp, open_meta};
use crate::{
    config::{Config, LoadedConfig},
    wiring,
};

/// Subcommands of `osproxy upload-grant`.
#[derive(Subcommand)]
pub enum UploadGrantCommand {
    /// Create a grant and print its links. Whoever has a link can create uploads of the tenant.
    Create {
        /// Properties of the grant.
        #[command(flatten)]
        properties: NewGrantArgs,
        /// Print one JSON object, with times in milliseconds since the Unix epoch.
        #[arg(long)]
        json: bool,
    },
    /// List the grants of a tenant, newest first, without their links.
    Ls {
        /// The tenant.
        #[arg(long, default_value_t = Tenant::default())]
        tenant: Tenant,
        /// Maximum number of grants to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        limit: u64,
        /// Print one JSON object per line, with times in milliseconds since the Unix epoch.
        #[arg(long)]
        json: bool,
    },
    /// Show a grant, and its links if it is active.
    Show {
        /// Id of the grant.
        id: Uid,
        /// Print one JSON object, with times in milliseconds since the Unix epoch.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a grant: all nodes reject its links, and those of its unfinished uploads, within 4
    /// seconds. Its files stay.
    Revoke {
        /// Id of the grant.
        id: Uid,
    },
}

/// Properties of a new grant.
#[derive(Args)]
pub struct NewGrantArgs {
    /// Owner of the files. It must have a key, a file or a quota.
    #[arg(long, default_value_t = Tenant::default())]
    tenant: Tenant,
    /// How long uploads can be created, such as 30m or 7d; at most `links.max_lifetime`.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_lifetime)]
    expires_in: i64,
    /// Maximum number of files [default: unlimited].
    #[arg(long, value_name = "FILES")]
    max_uploads: Option<u64>,
    /// Largest file, such as 2GiB [default: `uploads.max_size`].
    #[arg(long, value_name = "SIZE")]
    max_size: Option<ByteSize>,
    /// MIME type, or family such as image/*, of the files; can be repeated [default: all types].
    #[arg(long = "content-type", value_name = "TYPE")]
    content_types: Vec<String>,
    /// Network from which the links may be used, such as 192.0.2.0/24; can be repeated [default:
    /// all networks].
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<String>,
    /// Is put before the name of every file.
    #[arg(long, value_name = "PREFIX")]
    name_prefix: Option<String>,
    /// Metadata of every file; can be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_metadata)]
    metadata: Vec<(String, String)>,
}

/// Parses a duration with units, and returns the number of seconds.
fn parse_lifetime(text: &str) -> Result<i64, String> {
    let duration: Duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() != 0 {
        return Err("must be a whole number of seconds".to_owned());
    }
    i64::try_from(duration.as_secs()).map_err(|error| error.to_string())
}

fn parse_metadata(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must have the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// JSON output.
#[derive(Serialize)]
struct GrantLine<'a> {
    id: String,
    state: &'static str,
    tenant: &'a str,
    api_key: Option<&'a str>,
    created_at: i64,
    expires_at: i64,
    revoked_at: Option<i64>,
    uploads: u32,
    max_uploads: Option<u32>,
    max_size: Option<u64>,
    content_types: &'a [String],
    networks: Vec<String>,
    name_prefix: &'a str,
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<UploadGrantLinks>,
}

/// Creates, lists, shows or revokes grants, even while services are running.
pub fn run(loaded: &LoadedConfig, command: UploadGrantCommand) -> anyhow::Result<()> {
    let config = &loaded.config;
    super::block_on(async {
        let meta = open_meta(config).await?;
        match command {
            UploadGrantCommand::Create { properties, json } => {
                let grant = create(config, &meta, properties).await?;
                print(config, &meta, &grant, json).await
            }
            UploadGrantCommand::Ls { tenant, limit, json } => list(&meta, &tenant, limit, json).await,
            UploadGrantCommand::Show { id, json } => {
                let grant = UploadGrant::from_record(find(&meta, id).await?)?;
                print(config, &meta, &grant, json).await
            }
            UploadGrantCommand::Revoke { id } => revoke(&meta, id).await,
        }
    })
}

async fn create(config: &Config, meta: &Meta, properties: NewGrantArgs) -> anyhow::Result<UploadGrant> {
    let NewGrantArgs {
        tenant,
        expires_in,
        max_uploads,
        max_size,
        content_types,
        networks,
        name_prefix,
        metadata,
    } = properties;
    // A service without keys uses the default tenant.
    if tenant != Tenant::default() && !meta.tenants.exists(&tenant).await? {
        bail!("the tenant {tenant} has no key, file or quota; check the name");
    }
    let mut random = [0; 4];
    getrandom::fill(&mut random).context("cannot generate an id")?;
    // Worker ids belong to nodes. If the id is taken, the database rejects the grant.
    let id = Uid::random_at_ms(meta.now_ms(), u32::from_ne_bytes(random));
    let creator = GrantCreator { tenant, key: None, max_size: None, transfers: None };
    let request = CreateUploadGrantRequest {
        expires_in,
        max_uploads,
        max_size: max_size.map(|size| size.as_u64()),
        content_types,
        networks,
        name_prefix,
        metadata: metadata.into_iter().collect(),
    };
    let limits = wiring::limits(config);
    let grant = new_grant(&limits, id, creator, request)?;
    record_grant(&meta.access, &limits, &grant).await?;
    Ok(grant)
}

async fn find(meta: &Meta, id: Uid) -> anyhow::Result<GrantRecord> {
    meta.access.grant(id).await?.with_context(|| format!("there is no upload grant {id}"))
}

/// Prints a grant, and its links if it is active. They are absolute with `server.public_url`.
async fn print(config: &Config, meta: &Meta, grant: &UploadGrant, json: bool) -> anyhow::Result<()> {
    let line = grant_line(grant, meta.now_ms());
    let links = if line.state == "active" {
        let keys = load_link_keys(wiring::link_keys(config)?, &meta.access).await?;
        let UploadGrantLinks { tus, uploads } = grant_links(&keys, &grant.record);
        let base = config.server.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
        Some(UploadGrantLinks { tus: format!("{base}{tus}"), uploads: format!("{base}{uploads}") })
    } else {
        None
    };
    let line = GrantLine { links, ..line };
    if json {
        super::print_line(&serde_json::to_string(&line)?);
    } else {
        print_text(&line);
    }
    Ok(())
}

fn print_text(line: &GrantLine<'_>) {
    let unlimited = || "unlimited".to_owned();
    let mut fields = vec![
        ("id", line.id.clone()),
        ("state", line.state.to_owned()),
        ("tenant", line.tenant.to_owned()),
        ("created", format_timestamp(line.created_at)),
        ("expires", format_timestamp(line.expires_at)),
    ];
    fields.extend(line.api_key.map(|key| ("api key", key.to_owned())));
    fields.extend(line.revoked_at.map(|at| ("revoked", format_timestamp(at))));
    fields.extend([
        ("uploads", line.uploads.to_string()),
        ("max uploads", line.max_uploads.map_or_else(unlimited, |max| max.to_string())),
        ("max size", line.max_size.map_or_else(unlimited, |size| ByteSize(size).to_string())),
    ]);
    fields.extend((!line.content_types.is_empty()).then(|| ("content types", line.content_types.join(", "))));
    fields.extend((!line.networks.is_empty()).then(|| ("networks", line.networks.join(", "))));
    let prefix = line.name_prefix.escape_debug().to_string();
    fields.extend((!prefix.is_empty()).then_some(("name prefix", prefix)));
    fields.extend(
        line.metadata
            .iter()
            .map(|(key, value)| ("metadata", format!("{}={}", key.escape_debug(), value.escape_debug()))),
    );
    if let Some(UploadGrantLinks { tus, uploads }) = &line.links {
        fields.extend([("links.tus", tus.clone()), ("links.uploads", uploads.clone())]);
    }
    for (name, value) in fields {
        super::print_line(&format!("{name:<14} {value}"));
    }
}

async fn list(meta: &Meta, tenant: &Tenant, limit: u64, json: bool) -> anyhow::Result<()> {
    let now = meta.now_ms();
    let grants = meta.access.grants(tenant, None, limit).await?;
    let grants: Vec<_> = grants.into_iter().map(UploadGrant::from_record).collect::<Result<_, _>>()?;
    let lines = grants.iter().map(|grant| grant_line(grant, now));
    if json {
        for line in lines {
            super::print_line(&serde_json::to_string(&line)?);
        }
        return Ok(());
    }
    let header = format!(
        "{:<20}  {:<8}  {:<20}  {:<20}  {:>9}  {:>11}  {:<12}  {}",
        "ID", "STATE", "CREATED", "EXPIRES", "UPLOADS", "MAX UPLOADS", "API KEY", "NAME PREFIX"
    );
    let rows = lines.map(|line| {
        format!(
            "{:<20}  {:<8}  {:<20}  {:<20}  {:>9}  {:>11}  {:<12}  {}",
            line.id,
            line.state,
            format_timestamp(line.created_at),
            format_timestamp(line.expires_at),
            line.uploads,
            line.max_uploads.map_or_else(|| "-".to_owned(), |max| max.to_string()),
            line.api_key.unwrap_or("-"),
            line.name_prefix.escape_debug(),
        )
    });
    super::print_table(&header, rows);
    Ok(())
}

fn grant_line(grant: &UploadGrant, now: i64) -> GrantLine<'_> {
    let UploadGrant { record, terms } = grant;
    let GrantTerms { max_size, content_types, networks, name_prefix, metadata, .. } = terms;
    GrantLine {
        id: record.id.to_string(),
        state: match record.ended(now) {
            None => "active",
            Some(GrantRefusal::Revoked) => "revoked",
            Some(GrantRefusal::Expired) => "expired",
            Some(GrantRefusal::UsedUp) => "used_up",
        },
        tenant: record.tenant.as_str(),
        api_key: record.api_key.as_deref(),
        created_at: record.created_at,
        expires_at: record.expires_at,
        revoked_at: record.revoked_at,
        uploads: record.uploads,
        max_uploads: record.max_uploads,
        max_size: *max_size,
        content_types,
        networks: networks.iter().map(ToString::to_string).collect(),
        name_prefix,
        metadata,
        links: None,
    }
}

async fn revoke(meta: &Meta, id: Uid) -> anyhow::Result<()> {
    let grant = find(meta, id).await?;
    if grant.revoked_at.is_some() {
        bail!("upload grant {id} is already revoked");
    }
    meta.access.revoke_grant(grant.tenant, id).await?;
    super::print_line(&format!("upload grant {id} is revoked"));
    Ok(())
}
