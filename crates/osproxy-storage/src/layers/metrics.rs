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
    /// Bytes accepted by writers, without appended objects.
    pub written_bytes: AtomicU64,
}

/// Counters of one kind of operation.
#[derive(Debug, Default)]
pub struct OperationCounters {
    /// Durations of successful and failed operations.
    pub durations: DurationHistogram,
    /// Failed operations. Operations that failed with `NotFound` do not count.
    pub failures: AtomicU64,
}

/// Totals over all operations of a store since the program started. Reading or writing a chunk, and
/// finishing a writer, do not count as operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterTotals {
    /// Number of finished operations, successful or not.
    pub operations: u64,
    /// Failed operations and readers.
    pub failures: u64,
    /// Duration of all operations, in microseconds.
    pub duration_us: u64,
    /// Bytes returned by readers.
    pub read_bytes: u64,
    /// Bytes accepted by writers, without appended objects.
    pub written_bytes: u64,
}

impl Counters {
    /// Totals over all operations.
    pub fn totals(&self) -> CounterTotals {
        let mut totals = CounterTotals {
            operations: 0,
            failures: self.failed_readers(),
            duration_us: 0,
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
        };
        for counters in &self.operations {
            let (operations, duration_us) = counters.durations.total();
            totals.operations += operations;
            totals.duration_us += duration_us;
            totals.failures += counters.failures.load(Ordering::Relaxed);
        }
        totals
    }

    /// Each operation that was called, with its counters.
    pub fn operations(&self) -> impl Iterator<Item = (Operation, &OperationCounters)> {
        let all = Operation::ALL.into_iter().zip(&self.operations);
        all.filter(|(_, counters)| counters.durations.total().0 > 0)
    }

    /// Number of readers that failed before the end of their range.
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
        future: BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        if matches!(operation, Operation::Write | Operation::Finish) {
            return future.await;
        }
        let started_at = Instant::now();
        let result = future.await;
        if let Some(counters) = self.counters.operations.get(operation as usize) {
            counters.durations.observe(started_at.elapsed());
            if result.as_ref().is_err_and(|error| error.kind != ErrorKind::NotFound) {
                counters.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
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
