//! Writers queue, and those who wait together are committed together: one sync of the disk serves them all.

use futures_util::future::BoxFuture;
use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr};
use tokio::sync::{mpsc, oneshot};

use super::dialect;

/// Most pieces of work in one transaction.
const MAX_BATCH: usize = 64;
/// How many callers may wait before further ones wait to be let in.
const QUEUE: usize = 1024;

/// How a piece of work wants to be ended. Either way the caller gets the outcome.
pub(super) enum Verdict<T> {
    /// Keep what was changed.
    Commit(T),
    /// Take it all back: it turned out too late that it must not happen.
    Rollback(T),
}

/// Opens the connection that writes.
type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<DatabaseConnection, DbErr>> + Send + Sync>;

/// The way to the one connection that writes.
pub(super) struct WriteQueue {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl WriteQueue {
    /// Starts the thread that owns the connection; it ends when the queue is dropped and empty.
    pub(super) fn start(connection: DatabaseConnection, connect: Connect) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        // Statements go back and forth with the driver's thread. A thread of its own, with no sockets to watch,
        // waits for them at half the cost of a task among the requests.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let writer = Writer { connection: Some(connection), connect };
        std::thread::Builder::new()
            .name("meta-writer".to_owned())
            .spawn(move || runtime.block_on(serve(writer, queue)))?;
        Ok(Self { jobs })
    }

    /// How many pieces of work wait.
    pub(super) fn waiting(&self) -> u64 {
        self.jobs.max_capacity().saturating_sub(self.jobs.capacity()) as u64
    }

    /// Queues `work`, and returns its outcome once it is committed or undone.
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
    /// Does the work within a transaction and keeps the outcome. Says whether to commit.
    fn run<'t>(&'t mut self, transaction: &'t DatabaseTransaction) -> BoxFuture<'t, Result<bool, DbErr>>;

    /// Answers the caller: with the outcome, if the transaction ended as it was meant to.
    fn answer(self: Box<Self>, ended: Result<(), DbErr>);
}

struct Pending<T, W> {
    work: W,
    outcome: Option<T>,
    reply: oneshot::Sender<Result<T, DbErr>>,
}

impl<T, W> Job for Pending<T, W>
where
    T: Send,
    W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<Verdict<T>, DbErr>> + Send,
{
    fn run<'t>(&'t mut self, transaction: &'t DatabaseTransaction) -> BoxFuture<'t, Result<bool, DbErr>> {
        let work = (self.work)(transaction);
        Box::pin(async {
            let (outcome, commit) = match work.await? {
                Verdict::Commit(outcome) => (outcome, true),
                Verdict::Rollback(outcome) => (outcome, false),
            };
            self.outcome = Some(outcome);
            Ok(commit)
        })
    }

    fn answer(self: Box<Self>, ended: Result<(), DbErr>) {
        let Self { outcome, reply, .. } = *self;
        let nothing = || DbErr::Custom("the work left no outcome".to_owned());
        let result = ended.and_then(|()| outcome.ok_or_else(nothing));
        // Nobody may be waiting any more; the work is done all the same.
        let _ = reply.send(result);
    }
}

async fn serve(mut writer: Writer, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = queue.recv().await {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let ended = writer.execute(&mut batch).await;
        if batch.len() > 1 && !matches!(ended, Ok(true)) {
            // One spoiled it for all: each gets a transaction of its own, and answers for itself.
            for job in batch {
                let mut alone = [job];
                let ended = writer.execute(&mut alone).await;
                let [job] = alone;
                job.answer(ended.map(drop));
            }
        } else {
            for job in batch {
                job.answer(ended.clone().map(drop));
            }
        }
    }
}

/// The one connection that writes. None, when the last one could not be trusted any more.
struct Writer {
    connection: Option<DatabaseConnection>,
    connect: Connect,
}

impl Writer {
    /// Runs all of the batch in one transaction, and says whether it was committed. If any of it fails or wants to be
    /// undone, nothing of it stays.
    async fn execute(&mut self, batch: &mut [Box<dyn Job>]) -> Result<bool, DbErr> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => (self.connect)().await?,
        };
        let (ended, intact) = execute(&connection, batch).await;
        if intact {
            self.connection = Some(connection);
        } else if let Err(error) = connection.close().await {
            tracing::warn!(%error, "cannot close the database connection after an error");
        }
        ended
    }
}

/// As [`Writer::execute`]; also says whether the connection can be used again. When a transaction does not end as it
/// should (the disk is full, say), the driver may take later ones for parts of it: they would be answered as committed
/// and never be.
async fn execute(connection: &DatabaseConnection, batch: &mut [Box<dyn Job>]) -> (Result<bool, DbErr>, bool) {
    let transaction = match dialect::begin_write(connection).await {
        Ok(transaction) => transaction,
        Err(error) => return (Err(error), false),
    };
    for job in batch {
        let keep = job.run(&transaction).await;
        if !matches!(keep, Ok(true)) {
            let intact = transaction.rollback().await.is_ok();
            return (keep, intact);
        }
    }
    match transaction.commit().await {
        Ok(()) => (Ok(true), true),
        Err(error) => (Err(error), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sea_orm::ConnectionTrait;

    async fn numbers(queue: &WriteQueue) -> Vec<i32> {
        let all = queue.run(|transaction| {
            Box::pin(async move {
                let rows = transaction.query_all_raw(statement("SELECT n FROM numbers ORDER BY n")).await?;
                let numbers: Result<_, _> = rows.iter().map(|row| row.try_get("", "n")).collect();
                Ok(Verdict::Commit(numbers?))
            })
        });
        all.await.unwrap()
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

    #[tokio::test]
    async fn who_fails_or_is_undone_takes_nobody_along() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let connection = dialect::sqlite_writer(&path).await.unwrap();
        let create = "CREATE TABLE numbers (n INTEGER PRIMARY KEY)";
        connection.execute_raw(statement(create)).await.unwrap();
        let connect = move || -> BoxFuture<'static, _> { unreachable!("no transaction was left open") };
        let queue = WriteQueue::start(connection, Box::new(connect)).unwrap();
        // All of them wait together, so that they share transactions.
        let (one, again, undone, two) = tokio::join!(
            insert(&queue, 1, true),
            insert(&queue, 1, true),
            insert(&queue, 3, false),
            insert(&queue, 2, true),
        );
        assert_eq!((one, undone, two), (Ok(1), Ok(-3), Ok(2)));
        assert!(again.is_err());
        assert_eq!(numbers(&queue).await, [1, 2]);
    }
}
