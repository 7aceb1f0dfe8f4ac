//! Metrics of the running service. Counting never waits for a long-held lock, and the number of
//! time series is bounded whatever clients send.

pub(crate) mod encode;
pub(crate) mod export;
mod processing;
mod requests;
mod tasks;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, prometheus_text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

pub use processing::ProcessingMetrics;
pub use requests::{RequestMetrics, RouteMetrics};
pub use tasks::{TaskMetrics, TaskOutcome};

use crate::webhooks::WebhookMetrics;
use encode::{EncodeMetrics, gauge};

/// Content type of the exported metrics.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Labels whose values are constants of the program.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Metrics of a node, except those of its database and stores.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Metrics of requests.
    pub requests: RequestMetrics,
    /// Metrics of background tasks.
    pub tasks: TaskMetrics,
    /// Metrics of the steps of processing.
    pub processing: ProcessingMetrics,
    /// Uploads of content in progress.
    pub uploads: InFlight,
    /// Downloads of content in progress.
    pub downloads: InFlight,
    /// Received content that is being made durable and recorded.
    pub commits: InFlight,
    /// Deduplicated files, by [`DedupSource`].
    shared_files: Family<Labels<1>, Counter>,
    /// Bytes of deduplicated files, by [`DedupSource`].
    shared_bytes: Family<Labels<1>, Counter>,
    /// Instant uploads of unknown content.
    instant_misses: Counter,
    /// Metrics of webhooks.
    pub(crate) webhooks: Arc<WebhookMetrics>,
}

/// How deduplication found existing content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DedupSource {
    /// By the digest that the client sent instead of the content.
    Instant,
    /// By the digest that the client sent; the client then proved possession of the content.
    Proof,
    /// After the content was sent as a whole.
    Upload,
    /// After the content was sent in parts.
    Parts,
}

impl DedupSource {
    const fn name(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Proof => "proof",
            Self::Upload => "upload",
            Self::Parts => "parts",
        }
    }
}

impl Metrics {
    /// Counts a file of `bytes` bytes that shares existing content.
    pub fn count_deduplicated(&self, source: DedupSource, bytes: u64) {
        let labels = [("by", source.name())];
        self.shared_files.get_or_create(&labels).inc();
        self.shared_bytes.get_or_create(&labels).inc_by(bytes);
    }

    /// Counts an instant upload whose content is unknown.
    pub fn count_instant_miss(&self) {
        self.instant_misses.inc();
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.requests.encode(encoder)?;
        let transfers = [("upload", &self.uploads), ("download", &self.downloads)];
        encoder.encode_samples(
            "transfers_in_flight",
            "Uploads and downloads in progress",
            transfers.map(|(direction, running)| ([("direction", direction)], gauge(running.count()))),
        )?;
        self.tasks.encode(encoder)?;
        self.processing.encode(encoder)?;
        encoder.encode_metric(
            "shared_files",
            "Deduplicated files, by how the existing content was found",
            &self.shared_files,
        )?;
        encoder.encode_metric(
            "shared_bytes",
            "Bytes of deduplicated files, which were not stored again",
            &self.shared_bytes,
        )?;
        encoder.encode_metric(
            "instant_upload_misses",
            "Instant uploads of unknown content, which must be sent",
            &self.instant_misses,
        )?;
        encoder.encode_metric(
            "webhook_attempts",
            "Attempts to deliver events to webhooks on this node",
            &self.webhooks.attempts,
        )?;
        encoder.encode_metric(
            "webhook_attempt_seconds",
            "Duration of attempts to deliver events to webhooks",
            &self.webhooks.durations,
        )
    }
}

/// Number of running operations of one kind.
#[derive(Debug, Default)]
pub struct InFlight(Gauge<u64, AtomicU64>);

/// Counts one running operation until it is dropped.
#[derive(Debug)]
pub struct InFlightGuard(Gauge<u64, AtomicU64>);

impl InFlight {
    /// Counts another running operation.
    #[must_use]
    pub fn begin(&self) -> InFlightGuard {
        self.0.inc();
        InFlightGuard(self.0.clone())
    }

    /// Number of running operations.
    pub fn count(&self) -> u64 {
        self.0.get()
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
