//! Metrics of the running service. Counting never waits for a long-held lock, and the number of
//! time series is bounded whatever clients send.

mod by_label;
mod export;
mod page;
mod requests;
mod tasks;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

pub use osproxy_storage::DurationHistogram;
pub use page::MetricsPage;
pub use requests::{RequestMetrics, RouteMetrics};
pub use tasks::{TaskMetrics, TaskOutcome};

use by_label::ByLabel;

/// Metrics of a node, except those of its database and stores.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Metrics of requests.
    pub requests: RequestMetrics,
    /// Metrics of background tasks.
    pub tasks: TaskMetrics,
    /// Request bodies with content in progress.
    pub uploads: InFlight,
    /// Response bodies with content in progress.
    pub downloads: InFlight,
    /// Received content that is being made durable and recorded.
    pub commits: InFlight,
    /// Deduplicated content, by how the match was found.
    deduplicated: ByLabel<DedupSource, DedupCounters>,
    /// Instant uploads of unknown content.
    instant_misses: AtomicU64,
}

/// How deduplication found existing content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DedupSource {
    /// By the digest that the client sent instead of the content.
    Instant,
    /// By the digest, and the client proved possession.
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

#[derive(Debug, Default)]
struct DedupCounters {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Metrics {
    /// Counts a file of `bytes` bytes that shares existing content.
    pub fn count_deduplicated(&self, saving: DedupSource, bytes: u64) {
        let shared = self.deduplicated.get_or_default(&saving);
        shared.files.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts an instant upload whose content is unknown.
    pub fn count_instant_miss(&self) {
        self.instant_misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds these metrics to a page.
    pub fn export(&self, page: &mut MetricsPage) {
        self.requests.export(page);
        let transfers = [("upload", &self.uploads), ("download", &self.downloads)]
            .map(|(direction, running)| (vec![("direction", direction.to_owned())], running.count()));
        page.gauge("transfers_in_flight", "Uploads and downloads in progress", transfers);
        self.tasks.export(page);
        let shared = self.deduplicated.all();
        let label = |saving: DedupSource| vec![("by", saving.name().to_owned())];
        page.counter(
            "shared_files",
            "Deduplicated files, by how the existing content was found",
            shared.iter().map(|(saving, shared)| (label(*saving), shared.files.load(Ordering::Relaxed))),
        );
        page.counter(
            "shared_bytes",
            "Bytes of deduplicated files, which were not stored again",
            shared.iter().map(|(saving, shared)| (label(*saving), shared.bytes.load(Ordering::Relaxed))),
        );
        page.counter(
            "instant_upload_misses",
            "Instant uploads of unknown content, which must be sent",
            [(Vec::new(), self.instant_misses.load(Ordering::Relaxed))],
        );
    }
}

/// Number of running operations of one kind.
#[derive(Debug, Default)]
pub struct InFlight(Arc<AtomicU64>);

/// Counts one running operation until it is dropped.
#[derive(Debug)]
pub struct InFlightGuard(Arc<AtomicU64>);

impl InFlight {
    /// Counts another running operation.
    #[must_use]
    pub fn begin(&self) -> InFlightGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self.0.clone())
    }

    /// Number of running operations.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
