//! Group commit for the one connection that writes: jobs that wait together share one transaction, and one sync of the
//! disk. Each job of a shared transaction has a savepoint, so that one that fails or is refused undoes only itself.

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

use super::{
    dialect,
    failures::{Fault, fault},
    reserve::{self, Reserve},
};

/// Most jobs in one transaction.
const MAX_BATCH: usize = 64;
/// How many jobs may wait before `run` waits for a free place.
const QUEUE: usize = 1024;

/// Whether the changes of a job are kept. Either way the caller gets the outcome.
pub(super) enum Verdict<T> {
    /// Keep the changes.
    Commit(T),
    /// Undo the changes.
    Rollback(T),
}

/// Opens the connection that writes.
type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<DatabaseConnection, DbErr>> + Send + Sync>;

/// Sends jobs to the thread that owns the connection.
pub(super) struct WriteQueue {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl WriteQueue {
    /// Starts the thread that owns the connection; it ends when the queue is dropped and empty. On a full disk it spends
    /// `reserve`.
    pub(super) fn start(
        connection: DatabaseConnection,
        connect: Connect,
        reserve: Option<Arc<Reserve>>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        // Statements go back and forth with the driver's thread. A thread of its own, with no sockets to watch,
        // waits for them at half the cost of a task among the requests.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let writer = Writer { connection: Some(connection), connect, reserve };
        thread::Builder::new()
            .name("meta-writer".to_owned())
            .spawn(move || serve_despite_panics(&runtime, writer, queue))?;
        Ok(Self { jobs })
    }

    /// How many jobs wait.
    pub(super) fn waiting(&self) -> u64 {
        self.jobs.max_capacity().saturating_sub(self.jobs.capacity()) as u64
    }

    /// Queues `work`, and returns its outcome once it is committed or undone. `work` may run more than once; if it panics,
    /// only this call fails.
    pub(super) async fn run<T, W>(&self, work: W) -> Result<T, DbErr>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<Verdict<T>, DbErr>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { work, outcome: None, reply });
        let gone = || DbErr::Custom("the write queue has ended".to_owned());
        self.jobs.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Work whose outcome type is its own affair.
trait Job: Send {
    /// Does the work within a transaction and keeps the outcome. Returns whether its changes are to be kept.
    fn run<'t>(&'t mut self, transaction: &'t DatabaseTransaction) -> BoxFuture<'t, bool>;

    /// Whether the work failed because the disk is full.
    fn needs_room(&self) -> bool;

    /// Answers the caller: with the outcome, if the transaction ended as it was meant to.
    fn answer(self: Box<Self>, ended: Result<(), DbErr>);
}

struct Pending<T, W> {
    work: W,
    outcome: Option<Result<T, DbErr>>,
    reply: oneshot::Sender<Result<T, DbErr>>,
}

impl<T, W> Job for Pending<T, W>
where
    T: Send,
    W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<Verdict<T>, DbErr>> + Send,
{
    fn run<'t>(&'t mut self, transaction: &'t DatabaseTransaction) -> BoxFuture<'t, bool> {
        let Self { work, outcome, .. } = self;
        // Within the future, so that a panic of the call itself is caught as well.
        let working = AssertUnwindSafe(async move { work(transaction).await });
        Box::pin(async move {
            let (result, keep) = match working.catch_unwind().await {
                Ok(Ok(Verdict::Commit(done))) => (Ok(done), true),
                Ok(Ok(Verdict::Rollback(done))) => (Ok(done), false),
                Ok(Err(error)) => (Err(error), false),
                Err(panic) => (Err(panicked(&*panic)), false),
            };
            *outcome = Some(result);
            keep
        })
    }

    fn needs_room(&self) -> bool {
        matches!(&self.outcome, Some(Err(error)) if fault(error) == Fault::Full)
    }

    fn answer(self: Box<Self>, ended: Result<(), DbErr>) {
        let Self { outcome, reply, .. } = *self;
        let nothing = || Err(DbErr::Custom("the job left no outcome".to_owned()));
        let result = ended.and_then(|()| outcome.unwrap_or_else(nothing));
        // Nobody may be waiting any more; the work is done all the same.
        let _ = reply.send(result);
    }
}

fn panicked(panic: &(dyn Any + Send)) -> DbErr {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    DbErr::Custom(format!("a database job panicked: {}", text.unwrap_or("no message")))
}

/// Serves the queue until it ends. A panic outside a job fails the jobs of its batch, and later ones get a new connection.
fn serve_despite_panics(runtime: &Runtime, mut writer: Writer, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut serve_once = || runtime.block_on(serve(&mut writer, &mut queue));
    while panic::catch_unwind(AssertUnwindSafe(&mut serve_once)).is_err() {
        tracing::error!("the database writer panicked; it continues with a new connection");
    }
}

async fn serve(writer: &mut Writer, queue: &mut mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = next(writer, queue).await {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let ended = writer.execute_with_reserve(&mut batch).await;
        if batch.len() > 1 && ended.is_err() {
            // The shared transaction failed: each job gets one of its own, and answers for itself.
            for job in batch {
                let mut alone = [job];
                let ended = writer.execute_with_reserve(&mut alone).await;
                let [job] = alone;
                job.answer(ended);
            }
        } else {
            for job in batch {
                job.answer(ended.clone());
            }
        }
    }
}

/// The next job. While the reserve is spent, it is tried to have it again now and then.
async fn next(writer: &Writer, queue: &mut mpsc::Receiver<Box<dyn Job>>) -> Option<Box<dyn Job>> {
    loop {
        let Some(reserve) = writer.reserve.as_ref().filter(|reserve| reserve.is_spent()) else {
            return queue.recv().await;
        };
        // This thread may block: nothing else waits for it.
        reserve.refill();
        if let Ok(next) = tokio::time::timeout(reserve::PAUSE, queue.recv()).await {
            return next;
        }
    }
}

/// The one connection that writes.
struct Writer {
    /// `None` when the last one cannot be trusted any more.
    connection: Option<DatabaseConnection>,
    connect: Connect,
    /// Room for a full disk.
    reserve: Option<Arc<Reserve>>,
}

impl Writer {
    /// As [`execute`](Self::execute); on a full disk once more, with the room that is kept.
    async fn execute_with_reserve(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), DbErr> {
        let ended = self.execute(batch).await;
        let is_full = ended.as_ref().is_err_and(|error| fault(error) == Fault::Full)
            || batch.iter().any(|job| job.needs_room());
        if is_full && self.reserve.as_ref().is_some_and(|reserve| reserve.spend()) {
            return self.execute(batch).await;
        }
        ended
    }

    /// Runs the batch in one transaction and ends it. After an error nothing of the batch stays.
    async fn execute(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), DbErr> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => (self.connect)().await?,
        };
        let Executed { result, intact } = execute(&connection, batch).await;
        if intact {
            self.connection = Some(connection);
        } else if let Err(error) = connection.close().await {
            tracing::warn!(%error, "cannot close the database connection after an error");
        }
        result
    }
}

/// How a transaction ended.
struct Executed {
    result: Result<(), DbErr>,
    /// Whether the connection can be used again. When a transaction does not end as it should (the disk is full, say), the
    /// driver may take later ones for parts of it: they would be answered as committed and never be.
    intact: bool,
}

async fn execute(connection: &DatabaseConnection, batch: &mut [Box<dyn Job>]) -> Executed {
    let transaction = match dialect::begin_write(connection).await {
        Ok(transaction) => transaction,
        Err(error) => return Executed { result: Err(error), intact: false },
    };
    let result = match batch {
        [job] => {
            if !job.run(&transaction).await {
                let intact = transaction.rollback().await.is_ok();
                return Executed { result: Ok(()), intact };
            }
            Ok(())
        }
        batch => run_all(&transaction, batch).await,
    };
    match result {
        Ok(()) => {
            let result = transaction.commit().await;
            let intact = result.is_ok();
            Executed { result, intact }
        }
        Err(error) => {
            let intact = transaction.rollback().await.is_ok();
            Executed { result: Err(error), intact }
        }
    }
}

/// Runs each job behind a savepoint, to which the transaction returns when the job's changes are not to be kept.
async fn run_all(transaction: &DatabaseTransaction, batch: &mut [Box<dyn Job>]) -> Result<(), DbErr> {
    transaction.execute_unprepared("SAVEPOINT job").await?;
    for job in batch {
        // Each is one trip to the driver's thread. The savepoint is there again for the next job.
        let end = if job.run(transaction).await { "RELEASE job; SAVEPOINT job" } else { "ROLLBACK TO job" };
        if job.needs_room() {
            // All need it, this one was the first.
            return Err(DbErr::Custom("the disk is full".to_owned()));
        }
        transaction.execute_unprepared(end).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn numbers(queue: &WriteQueue) -> Vec<i32> {
        numbers_of(queue).await.unwrap()
    }

    async fn numbers_of(queue: &WriteQueue) -> Result<Vec<i32>, DbErr> {
        let all = queue.run(|transaction| {
            Box::pin(async move {
                let rows = transaction.query_all_raw(statement("SELECT n FROM numbers ORDER BY n")).await?;
                let numbers: Result<_, _> = rows.iter().map(|row| row.try_get("", "n")).collect();
                Ok(Verdict::Commit(numbers?))
            })
        });
        all.await
    }

    fn statement(sql: &str) -> sea_orm::Statement {
        sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, sql)
    }

    async fn insert(queue: &WriteQueue, n: i32, keep: bool) -> Result<i32, DbErr> {
        queue
            .run(move |transaction| {
                Box::pin(async move {
                    let sql = format!("INSERT INTO numbers VALUES ({n})");
                    transaction.execute_raw(statement(&sql)).await?;
                    Ok(if keep { Verdict::Commit(n) } else { Verdict::Rollback(-n) })
                })
            })
            .await
    }

    /// A queue on a new database with an empty table `numbers`, which counts how often it had to connect again.
    struct Fixture {
        queue: WriteQueue,
        reconnects: Arc<AtomicUsize>,
        _folder: tempfile::TempDir,
    }

    async fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let connection = dialect::sqlite_writer(&path).await.unwrap();
        let create = "CREATE TABLE numbers (n INTEGER PRIMARY KEY)";
        connection.execute_raw(statement(create)).await.unwrap();
        let reconnects = Arc::new(AtomicUsize::new(0));
        let count = reconnects.clone();
        let connect = move || -> BoxFuture<'static, _> {
            count.fetch_add(1, Ordering::SeqCst);
            let path = path.clone();
            Box::pin(async move { dialect::sqlite_writer(&path).await })
        };
        let queue = WriteQueue::start(connection, Box::new(connect), None).unwrap();
        Fixture { queue, reconnects, _folder: folder }
    }

    #[tokio::test]
    async fn a_job_that_fails_or_is_refused_undoes_only_itself() {
        let Fixture { queue, reconnects, _folder } = fixture().await;
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let neighbour = queue.run(move |transaction| {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                transaction.execute_raw(statement("INSERT INTO numbers VALUES (4)")).await?;
                Ok(Verdict::Commit(4))
            })
        });
        // All of them wait together, so that they share a transaction.
        let (one, four, again, undone, panicked, two) = tokio::join!(
            insert(&queue, 1, true),
            neighbour,
            insert(&queue, 1, true),
            insert(&queue, 3, false),
            panics(&queue, 5),
            insert(&queue, 2, true),
        );
        assert_eq!((one, undone, four, two), (Ok(1), Ok(-3), Ok(4), Ok(2)));
        assert!(again.is_err());
        assert!(panicked.unwrap_err().to_string().contains("five"));
        assert_eq!(numbers(&queue).await, [1, 2, 4]);
        assert_eq!(runs.load(Ordering::SeqCst), 1, "the neighbour ran again");
        assert_eq!(reconnects.load(Ordering::SeqCst), 0);
    }

    /// Changes something, and panics.
    async fn panics(queue: &WriteQueue, n: i32) -> Result<i32, DbErr> {
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
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<Verdict<T>, DbErr>> + Send + 'static,
    {
        Box::new(Pending { work, outcome: None, reply })
    }

    #[tokio::test]
    async fn a_panic_outside_a_job_leaves_the_writer_alive() {
        /// An outcome that nobody waits for, whose drop panics in the writer's thread.
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                assert_ne!(thread::current().name(), Some("meta-writer"));
            }
        }
        let Fixture { queue, _folder, .. } = fixture().await;
        let (reply, answer) = oneshot::channel();
        drop(answer);
        let bomb = pending(|_| Box::pin(async { Ok(Verdict::Commit(Bomb)) }), reply);
        assert!(queue.jobs.send(bomb).await.is_ok());
        // This may be in the bomb's batch, and fail with it.
        let _ = numbers_of(&queue).await;
        assert_eq!(insert(&queue, 1, true).await, Ok(1));
        assert_eq!(numbers(&queue).await, [1]);
    }
}
