//! Webhooks: events are sent to endpoints of the application, by the Standard Webhooks specification.
//!
//! The task `deliver_webhooks` delivers for all endpoints. Its lease makes one node of the cluster
//! the one that delivers, and another one takes over if that node fails. Within the node, each
//! endpoint has a worker with a queue, a window of concurrent attempts and a
//! backoff, so that endpoints do not wait for each other. A worker reads the events of its tenant
//! after its position, sends them, and records results and position together.

mod client;
pub mod configured;
mod deliverer;
mod filter;
mod guard;
mod lookups;
mod message;
mod schedule;
mod secret;
mod slots;
mod status;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use osproxy_meta::Meta;
use osproxy_types::uid::Uid;
use tokio::sync::Notify;

pub use client::{
    MAX_URL_BYTES, SendOutcome, SendReport, WebhookClient, WebhookClientSettings, WebhookMessage,
};
pub(crate) use deliverer::deliver;
pub use filter::WebhookFilter;
pub use message::{TEST_TYPE, message_id};
pub use osproxy_meta::{WebhookRecord, WebhookState};
pub use secret::{InvalidSecret, WebhookSecret};
pub(crate) use status::WebhookMetrics;

use crate::{Error, Result, metrics::Metrics, tasks::TaskNotifier};

/// How much later a delivery may be recorded than the end of its attempt, by the clock of another
/// node, in milliseconds.
const MAX_DELAY_MS: i64 = 3_600_000;
/// Bits of an id that are random.
const RANDOM_BITS: u32 = 20;

/// Settings of webhooks.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Settings of the HTTP client.
    pub client: WebhookClientSettings,
    /// Maximum number of webhooks of a tenant.
    pub max_per_tenant: u64,
    /// Maximum number of concurrent attempts of one endpoint.
    pub max_concurrency: usize,
    /// How long deliveries are kept that were delivered. Others are kept as long as events, or longer
    /// if this is longer.
    pub delivery_retention: Duration,
}

/// Handle for operations on webhooks.
pub struct WebhookOps {
    pub(crate) meta: Arc<Meta>,
    pub(crate) client: WebhookClient,
    pub(crate) settings: WebhookSettings,
    pub(crate) task_notifier: Arc<TaskNotifier>,
    /// Wakes the task on this node when webhooks have changed.
    pub(crate) changed: Notify,
    pub(crate) metrics: Arc<WebhookMetrics>,
    /// See [`purged_before`](Self::purged_before).
    purged_before: AtomicI64,
}

impl WebhookOps {
    /// Creates the handle. Fails if the certificates in the settings are invalid.
    pub(crate) fn new(
        meta: Arc<Meta>,
        settings: WebhookSettings,
        task_notifier: &Arc<TaskNotifier>,
        metrics: &Metrics,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: WebhookClient::new(&settings.client)?,
            meta,
            settings,
            task_notifier: task_notifier.clone(),
            changed: Notify::new(),
            metrics: metrics.webhooks.clone(),
            purged_before: AtomicI64::new(0),
        })
    }

    /// Deliveries whose latest attempt ended before this time were purged if they were delivered, in
    /// milliseconds since the Unix epoch; 0 if this process has purged none. So that a purge does not
    /// look through the dead deliveries that are kept longer.
    pub(crate) fn purged_before(&self) -> i64 {
        self.purged_before.load(Ordering::Relaxed).saturating_sub(MAX_DELAY_MS)
    }

    /// Records that a purge has ended.
    pub(crate) fn set_purged_before(&self, time: i64) {
        self.purged_before.store(time, Ordering::Relaxed);
    }

    /// Makes a change of webhooks take effect soon. Without this, it takes effect within seconds.
    pub(crate) fn announce_change(&self) {
        self.changed.notify_one();
        self.task_notifier.notify_cluster();
    }
}

/// Generates the id of a webhook. Ids ascend in the order of creation. Commands create webhooks too,
/// and have no worker id to generate a uid with.
pub fn new_id(now_ms: i64) -> Result<Uid> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(Error::internal)?;
    let random = i64::from(u32::from_be_bytes(random) >> (32 - RANDOM_BITS));
    Ok(Uid::from_db((now_ms.max(1) << RANDOM_BITS) | random))
}

/// Returns the secrets that sign the messages to a webhook at `now`, in milliseconds since the Unix
/// epoch.
pub fn signing_secrets(webhook: &WebhookRecord, now: i64) -> Vec<WebhookSecret> {
    let previous = webhook.previous_secret.iter().filter(|(_, until)| now < *until).map(|(secret, _)| secret);
    [&webhook.secret].into_iter().chain(previous).cloned().map(WebhookSecret::from_bytes).collect()
}

/// Sends a message of the type [`TEST_TYPE`] to a webhook, even if it is disabled, and returns what
/// the endpoint did.
pub async fn send_test(client: &WebhookClient, webhook: &WebhookRecord, now: i64) -> Result<SendReport> {
    let message = message::test_message(&new_id(now)?.to_string(), &webhook.id.to_string(), now)?;
    let secrets = signing_secrets(webhook, now);
    Ok(client.send(&webhook.tenant, &webhook.url, &secrets, &message).await)
}
