//! Metrics of database operations.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, SqlErr, Statement};

use crate::{
    DatabaseSnapshot, Meta,
    db::{
        database::Writer,
        metrics::{DatabaseMetrics, DatabaseOperation},
        pool,
        server_pool::Reader,
    },
};

/// A database reader that measures the duration of each operation.
pub(crate) struct InstrumentedReader {
    reader: Reader,
    metrics: Arc<DatabaseMetrics>,
    /// Number of write transactions that are running or waiting.
    pending_writes: AtomicU64,
}

/// Decrements the number of pending transactions when dropped.
struct PendingWriteGuard<'a>(&'a AtomicU64);

impl<'a> PendingWriteGuard<'a> {
    fn begin(writes: &'a AtomicU64) -> Self {
        writes.fetch_add(1, Ordering::Relaxed);
        Self(writes)
    }
}

impl Drop for PendingWriteGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InstrumentedReader {
    pub(crate) fn new(reader: Reader) -> Self {
        Self { reader, metrics: Arc::default(), pending_writes: AtomicU64::new(0) }
    }

    /// Creates a reader that adds to the metrics of this one.
    pub(crate) fn sibling(&self, reader: Reader) -> Self {
        Self { reader, metrics: self.metrics.clone(), pending_writes: AtomicU64::new(0) }
    }

    async fn measure<T>(&self, future: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        measure(&self.metrics, DatabaseOperation::Read, future).await
    }

    /// Measures a write transaction, including its time in the queue.
    pub(crate) async fn measure_write<T>(
        &self,
        transaction: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        let _write = PendingWriteGuard::begin(&self.pending_writes);
        measure(&self.metrics, DatabaseOperation::Write, transaction).await
    }
}

async fn measure<T>(
    metrics: &DatabaseMetrics,
    operation: DatabaseOperation,
    future: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    let began = Instant::now();
    let outcome = future.await;
    // A unique violation means that the transaction lost a race, which is an expected outcome.
    let is_error = outcome
        .as_ref()
        .is_err_and(|error| !matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))));
    metrics.record(operation, began.elapsed(), is_error);
    outcome
}

#[async_trait]
impl ConnectionTrait for InstrumentedReader {
    fn get_database_backend(&self) -> DbBackend {
        self.reader.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.measure(self.reader.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.measure(self.reader.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.measure(self.reader.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.measure(self.reader.query_all_raw(statement)).await
    }
}

impl Meta {
    /// Number of write transactions that are running or waiting.
    pub fn pending_writes(&self) -> u64 {
        self.db.reader.pending_writes.load(Ordering::Relaxed)
    }

    /// Returns the current metrics of operations, connections, the write queue and the file cache.
    pub fn metrics(&self) -> DatabaseSnapshot {
        let pool = match &self.db.reader.reader {
            Reader::Embedded(connection) => pool::pool_usage(connection),
            Reader::Server(server) => server.pool_usage(),
        };
        let queued_writes = match &self.db.writer {
            Writer::Embedded(queue) => queue.queued(),
            Writer::Server(_) => 0,
        };
        let (cache_hits, cache_misses) = self.db.file_cache.lookups();
        DatabaseSnapshot {
            reads: self.db.reader.metrics.snapshot(DatabaseOperation::Read),
            writes: self.db.reader.metrics.snapshot(DatabaseOperation::Write),
            idle_connections: pool.idle,
            connections: pool.connections,
            max_connections: pool.max,
            queued_writes,
            cache_hits,
            cache_misses,
            cached_files: self.db.file_cache.len(),
        }
    }
}
