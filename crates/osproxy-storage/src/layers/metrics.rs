use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture};

use super::{Layer, Opened, Operation};
use crate::{ErrorKind, ObjectReader, Result};

/// What was done to a store since the program started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Operations, however they ended; the pieces of readers and writers do not count.
    pub operations: AtomicU64,
    /// Those of them that failed, but for objects that were not there.
    pub failures: AtomicU64,
    /// How long they took together, in microseconds.
    pub busy_us: AtomicU64,
    /// Bytes that readers gave.
    pub read_bytes: AtomicU64,
    /// Bytes that writers took.
    pub written_bytes: AtomicU64,
}

impl Counters {
    /// Operations, failures, microseconds, bytes read and bytes written, as they are now.
    pub fn now(&self) -> [u64; 5] {
        [&self.operations, &self.failures, &self.busy_us, &self.read_bytes, &self.written_bytes]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// Counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// The counters, for whoever wants to look at them.
    pub counters: Arc<Counters>,
}

#[async_trait]
impl Layer for Metrics {
    async fn once<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        running: BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        if matches!(operation, Operation::Write | Operation::Finish) {
            return running.await;
        }
        let began = Instant::now();
        let outcome = running.await;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
        self.counters.busy_us.fetch_add(took, Ordering::Relaxed);
        if outcome.as_ref().is_err_and(|error| error.kind != ErrorKind::NotFound) {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn reader(&self, _opened: Opened, reader: ObjectReader) -> ObjectReader {
        let counters = self.counters.clone();
        Box::pin(reader.inspect(move |bytes| match bytes {
            Ok(bytes) => _ = counters.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            Err(_) => _ = counters.failures.fetch_add(1, Ordering::Relaxed),
        }))
    }

    fn written(&self, bytes: usize) {
        self.counters.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
