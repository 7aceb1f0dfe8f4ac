use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use osproxy_storage::DurationHistogram;

use super::MetricsPage;

/// A kind of database operation.
#[derive(Clone, Copy, Debug)]
pub enum DatabaseOperation {
    /// A query that changes nothing.
    Read,
    /// A transaction, from its request until it is durable, including time in the queue and
    /// retries.
    Write,
}

/// Metrics of a database.
#[derive(Debug, Default)]
pub struct DatabaseMetrics {
    read: OperationMetrics,
    write: OperationMetrics,
}

#[derive(Debug, Default)]
struct OperationMetrics {
    durations: DurationHistogram,
    errors: AtomicU64,
}

impl DatabaseMetrics {
    /// Counts an operation.
    pub fn record(&self, operation: DatabaseOperation, took: Duration, failed: bool) {
        let asked = match operation {
            DatabaseOperation::Read => &self.read,
            DatabaseOperation::Write => &self.write,
        };
        asked.durations.observe(took);
        if failed {
            asked.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds these metrics to a page.
    pub fn export(&self, page: &mut MetricsPage) {
        let all = [("read", &self.read), ("write", &self.write)];
        let label = |operation: &str| vec![("operation", operation.to_owned())];
        page.histogram(
            "database_operation_seconds",
            "Duration of database operations: a query, or a transaction until it is durable",
            all.map(|(operation, asked)| (label(operation), asked.durations.snapshot())),
        );
        page.counter(
            "database_errors",
            "Failed database operations",
            all.map(|(operation, asked)| (label(operation), asked.errors.load(Ordering::Relaxed))),
        );
    }
}

/// Metrics of the file cache.
#[derive(Debug, Default)]
pub struct CacheMetrics {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl CacheMetrics {
    /// Counts a lookup as a hit or a miss.
    pub fn count_lookup(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds these metrics to a page.
    pub fn export(&self, page: &mut MetricsPage) {
        let of = |counter: &AtomicU64| [(Vec::new(), counter.load(Ordering::Relaxed))];
        page.counter("cache_hits", "File lookups answered from the cache", of(&self.hits));
        page.counter("cache_misses", "File lookups that needed a database query", of(&self.misses));
    }
}
