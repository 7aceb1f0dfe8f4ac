//! Metrics of webhooks.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use osproxy_types::uid::Uid;
use prometheus_client::metrics::{counter::Counter, family::Family};

use crate::metrics::encode::SharedHistogram;

/// State of an endpoint on the node that delivers to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EndpointStatus {
    /// Time of the oldest event that the endpoint has not got yet, in milliseconds since the Unix
    /// epoch.
    pub(crate) waiting_since: Option<i64>,
    /// Whether the endpoint backs off.
    pub(crate) is_backing_off: bool,
}

/// Result of an attempt, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryOutcome {
    Delivered,
    Failed,
    Dead,
}

impl DeliveryOutcome {
    const ALL: [Self; 3] = [Self::Delivered, Self::Failed, Self::Dead];

    const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dead => "dead",
        }
    }
}

/// Metrics of webhooks on this node.
#[derive(Debug)]
pub(crate) struct WebhookMetrics {
    pub(crate) attempts: Family<[(&'static str, &'static str); 1], Counter>,
    pub(crate) durations: SharedHistogram,
    endpoints: Mutex<HashMap<i64, EndpointStatus>>,
}

impl Default for WebhookMetrics {
    fn default() -> Self {
        let attempts = Family::default();
        // Counters exist before the first attempt, so that alerts see them rise.
        for outcome in DeliveryOutcome::ALL {
            drop(attempts.get_or_create(&[("outcome", outcome.name())]));
        }
        Self { attempts, durations: SharedHistogram::default(), endpoints: Mutex::default() }
    }
}

impl WebhookMetrics {
    /// Counts an attempt.
    pub(crate) fn count(&self, outcome: DeliveryOutcome, duration: Duration) {
        self.attempts.get_or_create(&[("outcome", outcome.name())]).inc();
        self.durations.observe(duration);
    }

    fn endpoints(&self) -> MutexGuard<'_, HashMap<i64, EndpointStatus>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the status of an endpoint; `None` if this node does not deliver to it any more.
    pub(crate) fn set_status(&self, id: Uid, status: Option<EndpointStatus>) {
        match status {
            Some(status) => self.endpoints().insert(id.get(), status),
            None => self.endpoints().remove(&id.get()),
        };
    }

    /// Returns the number of endpoints that this node delivers to, the number of those that back
    /// off, and the time for which the oldest event has waited at `now`, in milliseconds since the
    /// Unix epoch.
    pub(crate) fn summary(&self, now: i64) -> (u64, u64, Duration) {
        let endpoints = self.endpoints();
        let backing_off = endpoints.values().filter(|status| status.is_backing_off).count();
        let oldest = endpoints.values().filter_map(|status| status.waiting_since).min();
        let lag = oldest.map_or(0, |since| now.saturating_sub(since).max(0));
        (endpoints.len() as u64, backing_off as u64, Duration::from_millis(lag.unsigned_abs()))
    }
}
