//! `osproxy webhook`: manages webhooks.

use std::str::FromStr;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use osproxy_core::webhooks::{WebhookClient, WebhookFilter, WebhookSecret, new_id, send_test};
use osproxy_meta::{DeliveryRecord, DeliveryState, Meta, WebhookChanges, WebhookRecord, WebhookState};
use osproxy_types::{tenant::Tenant, uid::Uid};
use serde::Serialize;

use super::{InitArgs, format_timestamp, open_meta, open_or_init_meta, print_line, print_table};
use crate::config::LoadedConfig;

/// Number of dead deliveries that are changed in one transaction.
const PAGE: u64 = 500;
/// How often a change is tried if others change the same webhook at the same time.
const MAX_TRIES: usize = 20;

/// Subcommands of `osproxy webhook`.
#[derive(Subcommand)]
pub enum WebhookCommand {
    /// Create a webhook and print its id and its secret; the secret cannot be shown again.
    Create {
        /// Properties of the webhook.
        #[command(flatten)]
        properties: NewWebhookArgs,
        /// Whether to create a missing database.
        #[command(flatten)]
        init: InitArgs,
    },
    /// List webhooks, newest first.
    Ls {
        /// List only webhooks of this tenant.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// Print one JSON object per line, with times in milliseconds since the Unix epoch.
        #[arg(long)]
        json: bool,
    },
    /// Show a webhook as JSON, with times in milliseconds since the Unix epoch.
    Show(WebhookArg),
    /// Send a test message from this machine, and print what the endpoint did.
    Test(WebhookArg),
    /// Send no more events until the webhook is enabled.
    Disable(WebhookArg),
    /// Send events again, beginning with those since the webhook was disabled.
    Enable(WebhookArg),
    /// Delete a webhook.
    Rm(WebhookArg),
    /// Deliver events again: those of dead deliveries, or all after a position.
    Replay {
        /// The webhook.
        #[command(flatten)]
        webhook: WebhookArg,
        /// Deliver all events after this position, instead of those of dead deliveries.
        #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(0..))]
        after: Option<i64>,
    },
    /// List the deliveries of a webhook, newest event first.
    Deliveries {
        /// The webhook.
        #[command(flatten)]
        webhook: WebhookArg,
        /// List only deliveries in this state.
        #[arg(long)]
        state: Option<DeliveryStateArg>,
        /// Maximum number of deliveries to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        limit: u64,
    },
}

/// Properties of a new webhook.
#[derive(Args)]
pub struct NewWebhookArgs {
    /// URL of the endpoint.
    url: String,
    /// Tenant whose events the endpoint gets.
    #[arg(long, default_value_t = Tenant::default())]
    tenant: Tenant,
    /// Comma-separated types of events [default: all].
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// Comma-separated categories of files [default: all events].
    #[arg(long, value_delimiter = ',')]
    categories: Vec<String>,
    /// Entry that the metadata of the files must have; can be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_entry)]
    metadata: Vec<(String, String)>,
}

/// The webhook that a command works on.
#[derive(Args)]
pub struct WebhookArg {
    /// Id of the webhook.
    #[arg(value_parser = Uid::from_str)]
    id: Uid,
}

/// State of a delivery.
#[derive(Clone, Copy, ValueEnum)]
pub enum DeliveryStateArg {
    /// The endpoint accepted it.
    Delivered,
    /// An attempt failed, and there will be another one.
    Retrying,
    /// All attempts failed.
    Dead,
}

impl From<DeliveryStateArg> for DeliveryState {
    fn from(state: DeliveryStateArg) -> Self {
        match state {
            DeliveryStateArg::Delivered => Self::Delivered,
            DeliveryStateArg::Retrying => Self::Retrying,
            DeliveryStateArg::Dead => Self::Dead,
        }
    }
}

/// JSON output.
#[derive(Serialize)]
struct WebhookLine<'a> {
    id: String,
    tenant: &'a str,
    url: &'a str,
    state: String,
    reason: Option<&'a str>,
    filter: WebhookFilter,
    position: i64,
    failures: u32,
    retry_at: Option<i64>,
    config_name: Option<&'a str>,
    created_at: i64,
}

fn parse_entry(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must have the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Manages webhooks, even while services are running.
pub fn run(loaded: &LoadedConfig, command: WebhookCommand) -> anyhow::Result<()> {
    super::block_on(async {
        if let WebhookCommand::Create { properties, init } = command {
            let meta = open_or_init_meta(&loaded.config, init).await?;
            return create(&meta, loaded, properties).await;
        }
        let meta = open_meta(&loaded.config).await?;
        match command {
            WebhookCommand::Create { .. } => Ok(()),
            WebhookCommand::Ls { tenant, json } => list(&meta, tenant.as_ref(), json).await,
            WebhookCommand::Show(webhook) => show(&find(&meta, webhook.id).await?),
            WebhookCommand::Test(webhook) => test(&meta, loaded, webhook.id).await,
            WebhookCommand::Disable(webhook) => set_state(&meta, webhook.id, WebhookState::Disabled).await,
            WebhookCommand::Enable(webhook) => set_state(&meta, webhook.id, WebhookState::Enabled).await,
            WebhookCommand::Rm(webhook) => remove(&meta, webhook.id).await,
            WebhookCommand::Replay { webhook, after } => replay(&meta, webhook.id, after).await,
            WebhookCommand::Deliveries { webhook, state, limit } => {
                find(&meta, webhook.id).await?;
                let state = state.map(DeliveryState::from);
                print_deliveries(&meta.webhooks.deliveries(webhook.id, state, None, limit).await?);
                Ok(())
            }
        }
    })
}

async fn find(meta: &Meta, id: Uid) -> anyhow::Result<WebhookRecord> {
    meta.webhooks.find(id).await?.with_context(|| format!("there is no webhook {id}"))
}

/// Fails if the webhook is in the configuration file.
fn changeable(webhook: WebhookRecord) -> anyhow::Result<WebhookRecord> {
    if let (id, Some(name)) = (webhook.id, &webhook.config_name) {
        bail!("webhook {id} is {name:?} in the configuration file; change it there");
    }
    Ok(webhook)
}

async fn create(meta: &Meta, loaded: &LoadedConfig, properties: NewWebhookArgs) -> anyhow::Result<()> {
    let NewWebhookArgs { url, tenant, types, categories, metadata } = properties;
    let settings = loaded.config.webhooks.settings().map_err(anyhow::Error::msg)?;
    let url = settings.client.check_url(&url)?.into();
    let filter = WebhookFilter { types, categories, metadata: metadata.into_iter().collect() };
    let secret = WebhookSecret::generate().context("cannot generate a secret")?;
    let now = meta.now_ms();
    let webhook = WebhookRecord {
        id: new_id(now)?,
        tenant,
        config_name: None,
        url,
        secret: secret.bytes().to_vec(),
        previous_secret: None,
        filters: filter.checked()?.to_text()?,
        state: WebhookState::Enabled,
        reason: None,
        position: meta.events.newest_position().await?,
        epoch: 0,
        version: 0,
        failures: 0,
        retry_at: None,
        created_at: now,
    };
    let id = webhook.id;
    if !meta.webhooks.create(webhook, settings.max_per_tenant).await? {
        bail!(
            "the tenant has {} webhooks, the maximum; see `webhooks.max_per_tenant`",
            settings.max_per_tenant
        );
    }
    print_line(&format!("{id} {}", secret.reveal()));
    Ok(())
}

async fn list(meta: &Meta, tenant: Option<&Tenant>, json: bool) -> anyhow::Result<()> {
    let webhooks = meta.webhooks.list(tenant, None, u64::from(u32::MAX)).await?;
    if json {
        return webhooks.iter().try_for_each(show);
    }
    let header = format!("{:<20}  {:<12}  {:<16}  {:>10}  {}", "ID", "STATE", "TENANT", "POSITION", "URL");
    let now = meta.now_ms();
    let rows = webhooks.iter().map(|webhook| {
        let state = match webhook.retry_at {
            Some(at) if webhook.state == WebhookState::Enabled && now < at => "backing off".to_owned(),
            _ => webhook.state.name(),
        };
        format!(
            "{:<20}  {state:<12}  {:<16}  {:>10}  {}",
            webhook.id.to_string(),
            webhook.tenant.as_str(),
            webhook.position,
            webhook.url
        )
    });
    print_table(&header, rows);
    Ok(())
}

fn show(webhook: &WebhookRecord) -> anyhow::Result<()> {
    let line = WebhookLine {
        id: webhook.id.to_string(),
        tenant: webhook.tenant.as_str(),
        url: &webhook.url,
        state: webhook.state.name(),
        reason: webhook.reason.as_deref(),
        filter: WebhookFilter::parse(&webhook.filters)?,
        position: webhook.position,
        failures: webhook.failures,
        retry_at: webhook.retry_at,
        config_name: webhook.config_name.as_deref(),
        created_at: webhook.created_at,
    };
    print_line(&serde_json::to_string(&line)?);
    Ok(())
}

async fn test(meta: &Meta, loaded: &LoadedConfig, id: Uid) -> anyhow::Result<()> {
    let webhook = find(meta, id).await?;
    let settings = loaded.config.webhooks.settings().map_err(anyhow::Error::msg)?;
    let client = WebhookClient::new(&settings.client).context("cannot use `webhooks.ca_file`")?;
    let report = send_test(&client, &webhook, meta.now_ms()).await?;
    match report.error {
        None => {
            let (status, duration) = (report.status.unwrap_or_default(), report.duration.as_millis());
            print_line(&format!("the endpoint answered {status} after {duration} ms"));
            Ok(())
        }
        Some(error) => bail!("{error}"),
    }
}

async fn set_state(meta: &Meta, id: Uid, state: WebhookState) -> anyhow::Result<()> {
    for _ in 0..MAX_TRIES {
        let webhook = changeable(find(meta, id).await?)?;
        let changes = WebhookChanges { state: Some(state), ..WebhookChanges::default() };
        if meta.webhooks.update(id, webhook.version, changes).await? {
            print_line(&format!("webhook {id} is {}", state.name()));
            return Ok(());
        }
    }
    bail!("webhook {id} changes all the time; try again")
}

async fn remove(meta: &Meta, id: Uid) -> anyhow::Result<()> {
    let webhook = find(meta, id).await?;
    // One that is disabled may have been removed from the configuration file.
    if webhook.state == WebhookState::Enabled {
        changeable(webhook)?;
    }
    meta.webhooks.delete(id).await?;
    print_line(&format!("webhook {id} is deleted"));
    Ok(())
}

async fn replay(meta: &Meta, id: Uid, after: Option<i64>) -> anyhow::Result<()> {
    find(meta, id).await?;
    if let Some(after) = after {
        let position = after.min(meta.events.newest_position().await?);
        meta.webhooks.set_position(id, position).await?;
        print_line(&format!("the events after position {position} are due"));
        return Ok(());
    }
    let mut replayed = 0;
    loop {
        let page = meta.webhooks.replay_dead(id, PAGE).await?;
        replayed += page;
        if page < PAGE {
            break;
        }
    }
    print_line(&format!("{replayed} dead deliveries are due"));
    Ok(())
}

fn print_deliveries(deliveries: &[DeliveryRecord]) {
    let header = format!(
        "{:>10}  {:<16}  {:<20}  {:<10}  {:>8}  {:>6}  {:>8}  {:<20}  {}",
        "POSITION", "TYPE", "UID", "STATE", "ATTEMPTS", "STATUS", "MS", "ATTEMPTED", "ERROR"
    );
    let rows = deliveries.iter().map(|delivery| {
        format!(
            "{:>10}  {:<16}  {:<20}  {:<10}  {:>8}  {:>6}  {:>8}  {:<20}  {}",
            delivery.position,
            delivery.kind,
            delivery.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
            delivery.state.name(),
            delivery.attempts,
            delivery.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            delivery.duration_ms,
            format_timestamp(delivery.attempted_at),
            delivery.error.as_deref().unwrap_or_default().escape_debug(),
        )
    });
    print_table(&header, rows);
}
