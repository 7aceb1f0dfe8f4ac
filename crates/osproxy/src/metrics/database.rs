use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use osproxy_storage::Durations;

use super::Page;

/// A kind of database operation.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// A query that changes nothing.
    Read,
    /// A transaction, from its request until it is durable, including time in the queue and
    /// retries.
    Write,
}

/// Metrics of a database.
#[derive(Debug, Default)]
pub struct DatabaseMetrics {
    read: Asked,
    write: Asked,
}

#[derive(Debug, Default)]
struct Asked {
    durations: Durations,
    errors: AtomicU64,
}

impl DatabaseMetrics {
    /// Counts an operation.
    pub fn asked(&self, operation: Operation, took: Duration, failed: bool) {
        let asked = match operation {
            Operation::Read => &self.read,
            Operation::Write => &self.write,
        };
        asked.durations.observe(took);
        if failed {
            asked.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds these metrics to a page.
    pub fn tell(&self, page: &mut Page) {
        let all = [("read", &self.read), ("write", &self.write)];
        let label = |operation: &str| vec![("operation", operation.to_owned())];
        page.durations(
            "database_operation_seconds",
            "Duration of database operations: a query, or a transaction until it is durable",
            all.map(|(operation, asked)| (label(operation), asked.durations.counted())),
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
    /// Counts a lookup.
    pub fn looked(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds these metrics to a page.
    pub fn tell(&self, page: &mut Page) {
        let of = |counter: &AtomicU64| [(Vec::new(), counter.load(Ordering::Relaxed))];
        page.counter("cache_hits", "File lookups answered from the cache", of(&self.hits));
        page.counter("cache_misses", "File lookups that needed a database query", of(&self.misses));
    }
}
