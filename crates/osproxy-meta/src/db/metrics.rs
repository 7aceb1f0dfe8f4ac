//! Metrics of database operations and of the file cache.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use osproxy_storage::{DurationHistogram, HistogramSnapshot};

/// A kind of database operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DatabaseOperation {
    /// A read-only query.
    Read,
    /// A write transaction, measured from the request to the durable commit. Includes retries and
    /// time in the queue.
    Write,
}

/// Metrics of a database.
#[derive(Debug, Default)]
pub(crate) struct DatabaseMetrics {
    read: OperationMetrics,
    write: OperationMetrics,
}

#[derive(Debug, Default)]
struct OperationMetrics {
    durations: DurationHistogram,
    errors: AtomicU64,
}

impl DatabaseMetrics {
    /// Records the duration of an operation, and whether it failed.
    pub(crate) fn record(&self, operation: DatabaseOperation, duration: Duration, failed: bool) {
        let metrics = match operation {
            DatabaseOperation::Read => &self.read,
            DatabaseOperation::Write => &self.write,
        };
        metrics.durations.observe(duration);
        if failed {
            metrics.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the durations and errors of a kind of operation so far.
    pub(crate) fn snapshot(&self, operation: DatabaseOperation) -> OperationSnapshot {
        let metrics = match operation {
            DatabaseOperation::Read => &self.read,
            DatabaseOperation::Write => &self.write,
        };
        OperationSnapshot {
            durations: metrics.durations.snapshot(),
            errors: metrics.errors.load(Ordering::Relaxed),
        }
    }
}

/// Metrics of the file cache.
#[derive(Debug, Default)]
pub(crate) struct CacheMetrics {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl CacheMetrics {
    /// Counts a lookup as a hit or a miss.
    pub(crate) fn count_lookup(&self, is_hit: bool) {
        let counter = if is_hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of hits and of misses so far.
    pub(crate) fn lookups(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

/// The metrics of a database at one moment.
#[derive(Clone, Debug)]
pub struct DatabaseSnapshot {
    /// Read-only queries.
    pub reads: OperationSnapshot,
    /// Write transactions, measured from the request to the durable commit.
    pub writes: OperationSnapshot,
    /// Idle connections. For SQLite, only connections that read are counted.
    pub idle_connections: u32,
    /// Open connections, idle or in use. For SQLite, only connections that read are counted.
    pub connections: u32,
    /// Maximum number of open connections. For SQLite, only connections that read are counted.
    pub max_connections: u32,
    /// Transactions waiting in the queue; always 0 for a database server.
    pub queued_writes: u64,
    /// File lookups that were answered from the cache.
    pub cache_hits: u64,
    /// File lookups that needed a query.
    pub cache_misses: u64,
    /// Files in the cache.
    pub cached_files: u64,
}

/// The metrics of one kind of database operation.
#[derive(Clone, Debug)]
pub struct OperationSnapshot {
    /// Durations of the operations.
    pub durations: HistogramSnapshot,
    /// Number of failed operations.
    pub errors: u64,
}
