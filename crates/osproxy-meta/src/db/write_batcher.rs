//! Group commit for the single connection that writes: jobs that wait at the same time share one
//! transaction and one fsync. A job that fails or rolls back undoes only its own changes: the batch
//! is rolled back and runs again, this time with a savepoint before each job.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
};

use futures_util::{FutureExt, future::BoxFuture};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use crate::db::{
    dialect,
    error_class::{ErrorClass, error_class},
    reserve::{self, Reserve},
};

/// Maximum number of jobs in a batch.
const MAX_BATCH: usize = 64;
/// Capacity of the queue. When it is full, `run` waits.
const MAX_QUEUED_JOBS: usize = 1024;

/// How a transaction ends. The caller of `run` gets the value in both cases.
pub(crate) enum TxEnd<T> {
    /// Keep the changes.
    Commit(T),
    /// Undo the changes.
    Rollback(T),
}

impl<T> TxEnd<T> {
    /// Converts the value.
    pub(crate) fn map<U>(self, convert: impl FnOnce(T) -> U) -> TxEnd<U> {
        match self {
            Self::Commit(value) => TxEnd::Commit(convert(value)),
            Self::Rollback(value) => TxEnd::Rollback(convert(value)),
        }
    }
}

type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<DatabaseConnection, DbErr>> + Send + Sync>;

/// Sends jobs to the thread that owns the connection.
pub(crate) struct WriteBatcher {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl WriteBatcher {
    /// Starts the thread that owns the connection. The thread exits once the `WriteBatcher` is
    /// dropped and the queue is empty. If the disk is full, the thread releases `reserve` and
    /// retries the batch once.
    pub(crate) fn start(
        connection: DatabaseConnection,
        connect: Connect,
        reserve: Option<Arc<Reserve>>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(MAX_QUEUED_JOBS);
        // Statements run on the thread that polls them and block it, so writes have a dedicated
        // thread.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let writer = BatchWriter { connection: Some(connection), connect, reserve };
        thread::Builder::new()
            .name("meta-writer".to_owned())
            .spawn(move || serve_despite_panics(&runtime, writer, queue))?;
        Ok(Self { jobs })
    }

    /// Number of waiting jobs.
    pub(crate) fn queued(&self) -> u64 {
        self.jobs.max_capacity().saturating_sub(self.jobs.capacity()) as u64
    }

    /// Queues `work` and returns its outcome once `work` is committed or rolled back. `work` can
    /// run more than once. If `work` panics, only this call fails.
    pub(crate) async fn run<T, W>(&self, work: W) -> Result<T, DbErr>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<TxEnd<T>, DbErr>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(PendingJob { work, outcome: None, reply });
        let closed = || DbErr::Custom("the write queue is closed".to_owned());
        self.jobs.send(job).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// A job with its outcome type erased.
trait Job: Send {
    /// Runs the work in a transaction and stores the outcome. Returns whether to keep the changes.
    fn run<'t>(&'t mut self, transaction: &'t DatabaseTransaction) -> BoxFuture<'t, bool>;

    /// Whether the work failed because the disk is full.
    fn hit_full_disk(&self) -> bool;

    /// Sends the caller the stored outcome, or the error in `result` if the transaction failed.
    fn reply(self: Box<Self>, result: Result<(), DbErr>);
}

struct PendingJob<T, W> {
    work: W,
    outcome: Option<Result<T, DbErr>>,
    reply: oneshot::Sender<Result<T, DbErr>>,
}

impl<T, W> Job for PendingJob<T, W>
where
    T: Send,
    W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<TxEnd<T>, DbErr>> + Send,
{
    fn run<'t>(&'t mut self, transaction: &'t DatabaseTransaction) -> BoxFuture<'t, bool> {
        let Self { work, outcome, .. } = self;
        // Call `work` inside the future, so that a panic before `work` returns its future is caught
        // too.
        let future = AssertUnwindSafe(async move { work(transaction).await });
        Box::pin(async move {
            let (result, is_kept) = match future.catch_unwind().await {
                Ok(Ok(TxEnd::Commit(value))) => (Ok(value), true),
                Ok(Ok(TxEnd::Rollback(value))) => (Ok(value), false),
                Ok(Err(error)) => (Err(error), false),
                Err(panic) => (Err(panic_error(&*panic)), false),
            };
            *outcome = Some(result);
            is_kept
        })
    }

    fn hit_full_disk(&self) -> bool {
        matches!(&self.outcome, Some(Err(error)) if error_class(error) == ErrorClass::DiskFull)
    }

    fn reply(self: Box<Self>, result: Result<(), DbErr>) {
        let Self { outcome, reply, .. } = *self;
        let no_outcome = || Err(DbErr::Custom("the database job returned no outcome".to_owned()));
        let result = result.and_then(|()| outcome.unwrap_or_else(no_outcome));
        // The caller may have stopped waiting, so ignore a failed send.
        let _ = reply.send(result);
    }
}

fn panic_error(panic: &(dyn Any + Send)) -> DbErr {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    DbErr::Custom(format!("a database job panicked: {}", text.unwrap_or("no message")))
}

/// Serves the queue until it is closed. After a panic outside a job, the jobs of the current batch
/// fail, and later batches use a new connection.
fn serve_despite_panics(runtime: &Runtime, mut writer: BatchWriter, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut serve_once = || runtime.block_on(serve(&mut writer, &mut queue));
    while panic::catch_unwind(AssertUnwindSafe(&mut serve_once)).is_err() {
        tracing::error!(
            "the database writer panicked; its current batch failed, and later writes use a new connection"
        );
    }
}

async fn serve(writer: &mut BatchWriter, queue: &mut mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = next_job(writer, queue).await {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let result = writer.execute_with_reserve(&mut batch).await;
        if batch.len() > 1 && result.is_err() {
            // The shared transaction failed, so run each job in a separate transaction.
            for job in batch {
                let mut single = [job];
                let result = writer.execute_with_reserve(&mut single).await;
                let [job] = single;
                job.reply(result);
            }
        } else {
            for job in batch {
                job.reply(result.clone());
            }
        }
    }
}

/// Waits for the next job. While the reserve is spent, tries to refill it periodically.
async fn next_job(writer: &BatchWriter, queue: &mut mpsc::Receiver<Box<dyn Job>>) -> Option<Box<dyn Job>> {
    loop {
        let Some(reserve) = writer.reserve.as_ref().filter(|reserve| reserve.is_spent()) else {
            return queue.recv().await;
        };
        // This thread may block: nothing else runs on it.
        reserve.refill();
        if let Ok(next) = tokio::time::timeout(reserve::REFILL_INTERVAL, queue.recv()).await {
            return next;
        }
    }
}

/// The single connection that writes.
struct BatchWriter {
    /// `None` if the previous connection cannot be reused. The next batch then opens a new one.
    connection: Option<DatabaseConnection>,
    connect: Connect,
    /// Disk space to release when the disk is full.
    reserve: Option<Arc<Reserve>>,
}

impl BatchWriter {
    /// Like [`execute`](Self::execute), but if the disk is full, releases the reserve and retries
    /// once.
    async fn execute_with_reserve(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), DbErr> {
        let result = self.execute(batch).await;
        let is_full = result.as_ref().is_err_and(|error| error_class(error) == ErrorClass::DiskFull)
            || batch.iter().any(|job| job.hit_full_disk());
        if is_full && self.reserve.as_ref().is_some_and(|reserve| reserve.spend()) {
            return self.execute(batch).await;
        }
        result
    }

    /// Runs a batch in one transaction. On error, none of the batch's changes are kept.
    async fn execute(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), DbErr> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => (self.connect)().await?,
        };
        let BatchResult { result, is_reusable } = execute(&connection, batch).await;
        if is_reusable {
            self.connection = Some(connection);
        } else if let Err(error) = connection.close().await {
            tracing::warn!(%error, "cannot close the database connection after an error");
        }
        result
    }
}

struct BatchResult {
    result: Result<(), DbErr>,
    /// Whether the connection can be reused. If a transaction does not end properly, for example on
    /// a full disk, the driver may treat later transactions as part of that transaction, and report
    /// commits that never happen.
    is_reusable: bool,
}

async fn execute(connection: &DatabaseConnection, batch: &mut [Box<dyn Job>]) -> BatchResult {
    let transaction = match dialect::begin_write(connection).await {
        Ok(transaction) => transaction,
        Err(error) => return BatchResult { result: Err(error), is_reusable: false },
    };
    if run_all(&transaction, batch).await {
        return commit(transaction).await;
    }
    let rolled_back = transaction.rollback().await;
    if batch.len() == 1 {
        // The job has its own error. After some errors, SQLite has rolled back already, and the
        // rollback fails.
        return BatchResult { result: Ok(()), is_reusable: rolled_back.is_ok() };
    }
    if let Err(error) = rolled_back {
        return BatchResult { result: Err(error), is_reusable: false };
    }
    let transaction = match dialect::begin_write(connection).await {
        Ok(transaction) => transaction,
        Err(error) => return BatchResult { result: Err(error), is_reusable: false },
    };
    match run_with_savepoints(&transaction, batch).await {
        Ok(()) => commit(transaction).await,
        Err(error) => {
            let is_reusable = transaction.rollback().await.is_ok();
            BatchResult { result: Err(error), is_reusable }
        }
    }
}

async fn commit(transaction: DatabaseTransaction) -> BatchResult {
    let result = transaction.commit().await;
    let is_reusable = result.is_ok();
    BatchResult { result, is_reusable }
}

/// Runs the jobs until one does not keep its changes. Returns whether all keep them.
async fn run_all(transaction: &DatabaseTransaction, batch: &mut [Box<dyn Job>]) -> bool {
    for job in batch {
        if !job.run(transaction).await {
            return false;
        }
    }
    true
}

/// Runs each job after a savepoint, and rolls back to the savepoint if the job does not keep its
/// changes. Fails as soon as a job hits a full disk.
async fn run_with_savepoints(
    transaction: &DatabaseTransaction,
    batch: &mut [Box<dyn Job>],
) -> Result<(), DbErr> {
    transaction.execute_unprepared("SAVEPOINT job").await?;
    for job in batch {
        // Either statement leaves a savepoint for the next job.
        let statement_after =
            if job.run(transaction).await { "RELEASE job; SAVEPOINT job" } else { "ROLLBACK TO job" };
        if job.hit_full_disk() {
            // The other jobs need disk space too, so the whole batch fails.
            return Err(DbErr::Custom("the database disk is full".to_owned()));
        }
        transaction.execute_unprepared(statement_after).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::db::connect;

    async fn numbers(queue: &WriteBatcher) -> Vec<i32> {
        numbers_of(queue).await.unwrap()
    }

    async fn numbers_of(queue: &WriteBatcher) -> Result<Vec<i32>, DbErr> {
        let all = queue.run(|transaction| {
            Box::pin(async move {
                let rows = transaction.query_all_raw(statement("SELECT n FROM numbers ORDER BY n")).await?;
                let numbers: Result<_, _> = rows.iter().map(|row| row.try_get("", "n")).collect();
                Ok(TxEnd::Commit(numbers?))
            })
        });
        all.await
    }

    fn statement(sql: &str) -> sea_orm::Statement {
        sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, sql)
    }

    async fn insert(queue: &WriteBatcher, n: i32, is_kept: bool) -> Result<i32, DbErr> {
        queue
            .run(move |transaction| {
                Box::pin(async move {
                    let sql = format!("INSERT INTO numbers VALUES ({n})");
                    transaction.execute_raw(statement(&sql)).await?;
                    Ok(if is_kept { TxEnd::Commit(n) } else { TxEnd::Rollback(-n) })
                })
            })
            .await
    }

    /// A queue on a new database with an empty table `numbers`. Counts reconnections.
    struct Fixture {
        queue: WriteBatcher,
        reconnects: Arc<AtomicUsize>,
        _folder: tempfile::TempDir,
    }

    async fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let connection = connect::sqlite_writer(&path).await.unwrap();
        let create = "CREATE TABLE numbers (n INTEGER PRIMARY KEY)";
        connection.execute_raw(statement(create)).await.unwrap();
        let reconnects = Arc::new(AtomicUsize::new(0));
        let count = reconnects.clone();
        let connect = move || -> BoxFuture<'static, _> {
            count.fetch_add(1, Ordering::SeqCst);
            let path = path.clone();
            Box::pin(async move { connect::sqlite_writer(&path).await })
        };
        let queue = WriteBatcher::start(connection, Box::new(connect), None).unwrap();
        Fixture { queue, reconnects, _folder: folder }
    }

    #[tokio::test]
    async fn a_failed_or_rolled_back_job_undoes_only_itself() {
        let Fixture { queue, reconnects, _folder } = fixture().await;
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let neighbour = queue.run(move |transaction| {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                transaction.execute_raw(statement("INSERT INTO numbers VALUES (4)")).await?;
                Ok(TxEnd::Commit(4))
            })
        });
        // The jobs are queued at the same time, so that they share a transaction.
        let (one, four, duplicate, undone, panicked, two) = tokio::join!(
            insert(&queue, 1, true),
            neighbour,
            insert(&queue, 1, true),
            insert(&queue, 3, false),
            panics(&queue, 5),
            insert(&queue, 2, true),
        );
        assert_eq!((one, undone, four, two), (Ok(1), Ok(-3), Ok(4), Ok(2)));
        assert!(duplicate.is_err());
        assert!(panicked.unwrap_err().to_string().contains("five"));
        assert_eq!(numbers(&queue).await, [1, 2, 4]);
        let runs = runs.load(Ordering::SeqCst);
        assert!((1..=2).contains(&runs), "at most once without a savepoint and once with one, not {runs}");
        assert_eq!(reconnects.load(Ordering::SeqCst), 0);
    }

    /// Inserts a row, then panics.
    async fn panics(queue: &WriteBatcher, n: i32) -> Result<i32, DbErr> {
        let run = queue.run(move |transaction| {
            Box::pin(async move {
                transaction.execute_raw(statement(&format!("INSERT INTO numbers VALUES ({n})"))).await?;
                panic!("five");
            })
        });
        run.await
    }

    #[tokio::test]
    async fn a_panic_of_a_single_job_leaves_the_writer_alive() {
        let Fixture { queue, reconnects, _folder } = fixture().await;
        assert!(panics(&queue, 5).await.is_err());
        let at_once: Result<i32, DbErr> = queue.run(|_| panic!("before there is a future")).await;
        assert!(at_once.is_err());
        assert_eq!(insert(&queue, 1, true).await, Ok(1));
        assert_eq!(numbers(&queue).await, [1]);
        assert_eq!(reconnects.load(Ordering::SeqCst), 0);
    }

    fn pending<T, W>(work: W, reply: oneshot::Sender<Result<T, DbErr>>) -> Box<dyn Job>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<TxEnd<T>, DbErr>> + Send + 'static,
    {
        Box::new(PendingJob { work, outcome: None, reply })
    }

    #[tokio::test]
    async fn a_panic_outside_a_job_leaves_the_writer_alive() {
        /// An outcome that panics when the writer's thread drops it.
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                assert_ne!(thread::current().name(), Some("meta-writer"));
            }
        }
        let Fixture { queue, _folder, .. } = fixture().await;
        let (reply, answer) = oneshot::channel();
        drop(answer);
        let bomb = pending(|_| Box::pin(async { Ok(TxEnd::Commit(Bomb)) }), reply);
        assert!(queue.jobs.send(bomb).await.is_ok());
        // This query may share the bomb's batch and fail with it.
        let _ = numbers_of(&queue).await;
        assert_eq!(insert(&queue, 1, true).await, Ok(1));
        assert_eq!(numbers(&queue).await, [1]);
    }
}
