//! Counters of operations, failures and bytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture};

use super::{Layer, OpenedObject, Operation};
use crate::{DurationHistogram, ErrorKind, ObjectReader, Result};

/// Counters of a store since the program started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Indexed in the order of [`Operation::ALL`].
    operations: [OperationCounters; Operation::ALL.len()],
    failed_readers: AtomicU64,
    /// Bytes returned by readers.
    pub read_bytes: AtomicU64,
    /// Bytes accepted by writers.
    pub written_bytes: AtomicU64,
}

/// Counters of one kind of operation.
#[derive(Debug, Default)]
pub struct OperationCounters {
    /// Durations of successful and failed operations.
    pub durations: DurationHistogram,
    /// Failed operations; objects that were not found do not count.
    pub failures: AtomicU64,
}

impl Counters {
    /// Totals of operations, failures, microseconds, bytes read and bytes written. Chunks of
    /// readers and writers do not count as operations.
    pub fn totals(&self) -> [u64; 5] {
        let (mut operations, mut busy_us) = (0, 0);
        let mut failures = self.failed_readers.load(Ordering::Relaxed);
        for counters in &self.operations {
            let (count, us) = counters.durations.total();
            (operations, busy_us) = (operations + count, busy_us + us);
            failures += counters.failures.load(Ordering::Relaxed);
        }
        let [read, written] =
            [&self.read_bytes, &self.written_bytes].map(|counter| counter.load(Ordering::Relaxed));
        [operations, failures, busy_us, read, written]
    }

    /// Each operation that was called, with its counters.
    pub fn operations(&self) -> impl Iterator<Item = (Operation, &OperationCounters)> {
        let all = Operation::ALL.into_iter().zip(&self.operations);
        all.filter(|(_, counters)| counters.durations.total().0 > 0)
    }

    /// Number of readers that failed before their end.
    pub fn failed_readers(&self) -> u64 {
        self.failed_readers.load(Ordering::Relaxed)
    }
}

/// A layer that counts operations, failures and bytes.
#[derive(Clone, Debug, Default)]
pub struct MetricsLayer {
    /// The shared counters.
    pub counters: Arc<Counters>,
}

#[async_trait]
impl Layer for MetricsLayer {
    async fn run_once<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        running: BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        if matches!(operation, Operation::Write | Operation::Finish) {
            return running.await;
        }
        let started = Instant::now();
        let outcome = running.await;
        if let Some(counters) = self.counters.operations.get(operation as usize) {
            counters.durations.observe(started.elapsed());
            if outcome.as_ref().is_err_and(|error| error.kind != ErrorKind::NotFound) {
                counters.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        outcome
    }

    fn reader(&self, _opened: OpenedObject, reader: ObjectReader) -> ObjectReader {
        let counters = self.counters.clone();
        Box::pin(reader.inspect(move |bytes| match bytes {
            Ok(bytes) => _ = counters.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            Err(_) => _ = counters.failed_readers.fetch_add(1, Ordering::Relaxed),
        }))
    }

    fn record_written(&self, bytes: usize) {
        self.counters.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
