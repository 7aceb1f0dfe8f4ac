//! Connections, clock, caches and transactions, shared by the handles of all domains.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use osproxy_types::uid::Uid;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr};

use crate::{
    Invalidation, MetaError, NodeStores, ProcessingPolicy,
    access::quotas::Quotas,
    boxed_future,
    db::{
        clock::Clock,
        database_lock::DatabaseLock,
        instrumented::InstrumentedReader,
        reserve::Reserve,
        server_pool::ServerPool,
        write_batcher::{TxEnd, WriteBatcher},
    },
    events::signal::EventSignal,
    files::cache::FileCache,
    tasks::kind::TaskSeed,
};

/// An open database. The handle of each domain refers to it.
pub(crate) struct Database {
    /// For queries that may take long.
    pub(crate) reader: InstrumentedReader,
    /// For queries of requests that read a few rows by an index. With SQLite, such a query runs on
    /// the thread that polls it.
    pub(crate) lookups: InstrumentedReader,
    pub(crate) writer: Writer,
    pub(crate) clock: Clock,
    pub(crate) node_stores: Arc<NodeStores>,
    /// Cached files. Stored content never changes, so an entry becomes stale only when its file is
    /// deleted or updated, its links are revoked, or its object moves.
    pub(crate) file_cache: FileCache,
    pub(crate) quotas: Arc<Quotas>,
    /// Maximum attempts for each task enqueued by a transaction.
    pub(crate) max_task_attempts: u32,
    /// Disk space reserved for the SQLite file. `None` for a server, and if
    /// [`Meta::open_existing`](crate::Meta::open_existing) opened the file.
    pub(crate) reserve: Option<Arc<Reserve>>,
    pub(crate) listener: OnceLock<InvalidationListener>,
    /// Whether changes record events.
    pub(crate) records_events: bool,
    pub(crate) event_signal: Arc<EventSignal>,
    pub(crate) task_listener: OnceLock<TaskListener>,
}

/// The write path.
pub(crate) enum Writer {
    /// SQLite: one connection, fed by a queue.
    Embedded(WriteBatcher),
    /// A database server: a pool of connections; the server isolates transactions.
    Server(Arc<ServerPool>),
}

/// Outcome of a transaction, with its type erased.
type Erased = Box<dyn Any + Send>;

/// Work of a transaction, with the type of the outcome erased.
type ErasedWork =
    Box<dyn for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<TxEnd<Erased>, DbErr>> + Send + Sync>;

/// Called after this node has enqueued a processing task.
pub(crate) type TaskListener = Box<dyn Fn() + Send + Sync>;

/// Called for every invalidation that this node causes.
pub(crate) type InvalidationListener = Box<dyn Fn(Invalidation) + Send + Sync>;

impl Database {
    /// Evicts a changed file or blob from this node's cache.
    pub(crate) fn invalidate(&self, change: Invalidation) {
        match change {
            Invalidation::File(uid) => self.file_cache.evict_file(uid),
            Invalidation::Blob(blob_id) => self.file_cache.evict_blob(blob_id),
        }
    }

    /// Evicts a file or blob that this node has changed, and calls the listener, which notifies the
    /// other nodes.
    pub(crate) fn invalidate_everywhere(&self, change: Invalidation) {
        self.invalidate(change);
        if let Some(listener) = self.listener.get() {
            listener(change);
        }
    }

    /// Notifies the listener if files whose content became complete are processed. Called after a
    /// transaction that may have made a file complete.
    pub(crate) fn content_completed(&self) {
        if self.node_stores.processing != ProcessingPolicy::default()
            && let Some(listener) = self.task_listener.get()
        {
            listener();
        }
    }

    pub(crate) fn task_seed(&self, id: Uid) -> TaskSeed {
        TaskSeed { id, max_attempts: self.max_task_attempts, now: self.clock.now_ms() }
    }

    /// Checks that the database can be read and written.
    pub(crate) async fn ping(&self) -> Result<(), MetaError> {
        self.lookups.execute_unprepared("SELECT 1").await?;
        self.write(|_| Box::pin(async { Ok(()) })).await
    }

    /// Acquires a cluster-wide lock, held until the returned connection is dropped. Fails if
    /// another node still holds the lock after `wait`. Returns `None` for SQLite, which needs no
    /// lock because only one node uses the file.
    pub(crate) async fn lock(
        &self,
        lock: DatabaseLock,
        wait: Duration,
    ) -> Result<Option<DatabaseConnection>, MetaError> {
        match &self.writer {
            Writer::Embedded(_) => Ok(None),
            Writer::Server(server) => Ok(Some(server.lock(lock, wait).await?)),
        }
    }

    /// Runs `work` in a transaction and returns after the commit is durable. An `Err` from `work`
    /// rolls everything back. `work` can run more than once: the changes of every run but the final
    /// one are rolled back. Once `work` has started, the transaction completes even if the caller
    /// drops this future.
    pub(crate) async fn write<T, W>(&self, work: W) -> Result<T, MetaError>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbErr>> + Send + Sync + 'static,
    {
        let committing = self.write_or_rollback(move |transaction| {
            let outcome = work(transaction);
            Box::pin(async { outcome.await.map(TxEnd::Commit) })
        });
        committing.await
    }

    /// Like [`write`](Self::write), but `work` can also roll back and still return an outcome.
    pub(crate) async fn write_or_rollback<T, W>(&self, work: W) -> Result<T, MetaError>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<TxEnd<T>, DbErr>>
            + Send
            + Sync
            + 'static,
    {
        let erased: ErasedWork = Box::new(move |transaction| {
            let outcome = work(transaction);
            Box::pin(async { outcome.await.map(|end| end.map(|value| Box::new(value) as Erased)) })
        });
        let outcome = self.write_erased(erased).await?.downcast::<T>();
        let other_type = |_| DbErr::Custom("a transaction returned an outcome of another type".to_owned());
        Ok(*outcome.map_err(other_type)?)
    }

    /// Runs work with a type-erased outcome. This function is not generic, so it and everything
    /// that it calls are compiled once, not once for every transaction.
    #[boxed_future]
    async fn write_erased(&self, work: ErasedWork) -> Result<Erased, MetaError> {
        let transaction = async {
            match &self.writer {
                Writer::Embedded(queue) => queue.run(work).await,
                Writer::Server(server) => {
                    let server = server.clone();
                    let writing = tokio::spawn(async move { server.write(work).await });
                    writing.await.map_err(|error| DbErr::Custom(error.to_string()))?
                }
            }
        };
        Ok(self.reader.measure_write(transaction).await?)
    }
}
