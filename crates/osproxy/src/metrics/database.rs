use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use osproxy_storage::Durations;

use super::Page;

/// What is asked of a database.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// A question, which changes nothing.
    Read,
    /// A transaction, from when it is asked for until it is durable: with waiting for its turn and with what was run again.
    Write,
}

/// What came of what was asked of a database.
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
    /// Counts an operation that took so long.
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

    /// Puts on a page what was counted.
    pub fn tell(&self, page: &mut Page) {
        let all = [("read", &self.read), ("write", &self.write)];
        let label = |operation: &str| vec![("operation", operation.to_owned())];
        page.durations(
            "database_operation_seconds",
            "How long the database took: a question, or a transaction until it is durable",
            all.map(|(operation, asked)| (label(operation), asked.durations.counted())),
        );
        page.counter(
            "database_errors",
            "What the database could not do",
            all.map(|(operation, asked)| (label(operation), asked.errors.load(Ordering::Relaxed))),
        );
    }
}

/// What came of looking for files among those that are remembered.
#[derive(Debug, Default)]
pub struct CacheMetrics {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl CacheMetrics {
    /// Counts a file that was looked for.
    pub fn looked(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts on a page what was counted.
    pub fn tell(&self, page: &mut Page) {
        let of = |counter: &AtomicU64| [(Vec::new(), counter.load(Ordering::Relaxed))];
        page.counter("cache_hits", "Files that were remembered when they were asked for", of(&self.hits));
        page.counter("cache_misses", "Files that had to be asked of the database", of(&self.misses));
    }
}
