//! What is counted while the service runs. Counting takes no lock that anybody holds for long; what is counted is bounded
//! by what the program knows, whatever clients send.

mod by_label;
mod database;
mod page;
mod requests;
mod tasks;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

pub use database::{CacheMetrics, DatabaseMetrics, Operation};
pub use osproxy_storage::Durations;
pub use page::Page;
pub use requests::{Requests, Route};
pub use tasks::{Outcome, Tasks};

use by_label::ByLabel;

/// What a node counts, but for what its database and its stores count themselves.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Of requests.
    pub requests: Requests,
    /// Of background work.
    pub tasks: Tasks,
    /// Bodies with content that are coming in.
    pub uploads: InFlight,
    /// Bodies with content that are going out.
    pub downloads: InFlight,
    /// Contents that have come, and are being made durable and recorded.
    pub endings: InFlight,
    /// Content that was not stored because it was there, by how that was found out.
    shared: ByLabel<Saving, Shared>,
    /// Content that clients asked for by its digests and that was not there.
    not_there: AtomicU64,
}

/// How it was found out that content is stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Saving {
    /// The client told its digest, and sent nothing.
    Instant,
    /// The same, and the client showed to have it.
    Proof,
    /// It was sent in one piece, and was the same.
    Upload,
    /// It was sent in parts, and was the same.
    Parts,
}

impl Saving {
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
struct Shared {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Metrics {
    /// A file of so many bytes shares content that was stored before.
    pub fn shared(&self, saving: Saving, bytes: u64) {
        let shared = self.shared.of(&saving);
        shared.files.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Content was asked for by its digests, and has to be sent.
    pub fn not_there(&self) {
        self.not_there.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts on a page what was counted.
    pub fn tell(&self, page: &mut Page) {
        self.requests.tell(page);
        let transfers = [("upload", &self.uploads), ("download", &self.downloads)]
            .map(|(direction, running)| (vec![("direction", direction.to_owned())], running.count()));
        page.gauge("transfers_in_flight", "Bodies with content that are on their way", transfers);
        self.tasks.tell(page);
        let shared = self.shared.all();
        let label = |saving: Saving| vec![("by", saving.name().to_owned())];
        page.counter(
            "shared_files",
            "Files whose content was stored already, by how that was found out",
            shared.iter().map(|(saving, shared)| (label(*saving), shared.files.load(Ordering::Relaxed))),
        );
        page.counter(
            "shared_bytes",
            "Bytes of those files, which were not stored again",
            shared.iter().map(|(saving, shared)| (label(*saving), shared.bytes.load(Ordering::Relaxed))),
        );
        page.counter(
            "instant_upload_misses",
            "Content that was asked for by its digest and has to be sent",
            [(Vec::new(), self.not_there.load(Ordering::Relaxed))],
        );
    }
}

/// How many of something are running.
#[derive(Debug, Default)]
pub struct InFlight(Arc<AtomicU64>);

/// Counts among what is running until it is dropped.
#[derive(Debug)]
pub struct Running(Arc<AtomicU64>);

impl InFlight {
    /// Another one runs from now on.
    #[must_use]
    pub fn begin(&self) -> Running {
        self.0.fetch_add(1, Ordering::Relaxed);
        Running(self.0.clone())
    }

    /// How many run.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
