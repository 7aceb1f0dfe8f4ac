//! Webhooks: endpoints that get the events of a tenant, and their deliveries.
//!
//! The position of a webhook says how far its events are handled: every event up to it is delivered
//! or has a row in `webhook_deliveries`. One process delivers at a time, but a process that has lost
//! its lease may still record what it sent. So a position only grows, except when somebody sets it:
//! then the epoch changes, and positions of an older epoch are not recorded.

pub(crate) mod deliveries;
pub(crate) mod endpoints;

use std::{fmt, sync::Arc};

use osproxy_types::{tenant::Tenant, uid::Uid};

use crate::db::{
    database::Database,
    entities::{webhook, webhook_delivery},
};

pub use webhook::State as WebhookState;
pub use webhook_delivery::State as DeliveryState;

/// Webhooks and their deliveries.
#[derive(Clone)]
pub struct WebhookDb {
    pub(crate) db: Arc<Database>,
}

/// A webhook as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookRecord {
    /// Id.
    pub id: Uid,
    /// The tenant whose events it gets.
    pub tenant: Tenant,
    /// Name in the configuration file; `None` if it was created otherwise.
    pub config_name: Option<String>,
    /// Where the events are sent.
    pub url: String,
    /// Signs the events.
    pub secret: Vec<u8>,
    /// The secret before the latest rotation, and until when it also signs, in milliseconds since
    /// the Unix epoch. Two earlier secrets never sign at the same time.
    pub previous_secret: Option<(Vec<u8>, i64)>,
    /// Which events it gets, in a format of the caller.
    pub filters: String,
    /// Whether it gets events.
    pub state: WebhookState,
    /// Why it is disabled.
    pub reason: Option<String>,
    /// Every event up to this position is delivered or has a row.
    pub position: i64,
    /// Changes whenever `position` is set by something else than a delivery.
    pub epoch: i32,
    /// Changes whenever somebody changes the webhook or its deliveries.
    pub version: i32,
    /// Failed attempts since the latest successful one.
    pub failures: u32,
    /// Nothing is sent before this time, in milliseconds since the Unix epoch.
    pub retry_at: Option<i64>,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl fmt::Debug for WebhookRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookRecord").field("id", &self.id).field("url", &self.url).finish_non_exhaustive()
    }
}

/// A delivery as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Position of the event.
    pub position: i64,
    /// Kind of the event.
    pub kind: String,
    /// The file that the event is about.
    pub uid: Option<Uid>,
    /// State.
    pub state: DeliveryState,
    /// Number of attempts.
    pub attempts: u32,
    /// When the next attempt is due, in milliseconds since the Unix epoch.
    pub next_at: Option<i64>,
    /// When the latest attempt ended, in milliseconds since the Unix epoch.
    pub attempted_at: i64,
    /// Status of the latest response.
    pub status: Option<u16>,
    /// Duration of the latest attempt in milliseconds.
    pub duration_ms: u32,
    /// Why the latest attempt failed.
    pub error: Option<String>,
}
