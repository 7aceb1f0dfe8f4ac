//! Metadata: the only place with SQL.
//!
//! Every change of state is a conditional UPDATE that names the state it expects; whoever affects no row has
//! lost. Callers hand over what they know and get back what became of it, never a connection.

mod audit;
mod blobs;
#[cfg(test)]
mod contract;
mod dialect;
mod entities;
mod files;
mod link_keys;
mod merges;
mod migrations;
mod parts;
mod remembered;
mod removals;
mod task_list;
mod tasks;
mod unfinished;
mod uploads;
mod write_queue;

use std::path::Path;

use futures_util::future::BoxFuture;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction};
use sea_orm_migration::MigratorTrait;

pub use audit::{BlobState, PartState, RecordedBlob, RecordedLayout, RecordedPart};
pub use blobs::Blob;
pub use files::{Content, FileState, Layout, NewFile, StoredFile};
pub use merges::{Merge, MergeIntent, Merged};
pub use parts::{BegunPart, Completed, Completion, FinishedPart, PartIntent, StoredPart, UploadStatus};
pub use removals::{Remains, Removed};
pub use sea_orm::DbErr;
pub use tasks::{Attempt, AttemptOutcome, ClaimedTask, Ended, NewTask, Task, TaskForBlob, TaskState};
pub use unfinished::Kind;
pub use uploads::{Begun, Finished, Intent};

use remembered::Remembered;
use write_queue::{Verdict, WriteQueue};

/// The tenant of everything, as long as there are no API keys.
pub const DEFAULT_TENANT: &str = "default";

/// The metadata database of this node.
pub struct Meta {
    reader: DatabaseConnection,
    writer: WriteQueue,
    /// Content of a uid never changes once stored, so what is remembered only goes stale when a file is removed or
    /// its object moves.
    stored: Remembered,
}

impl Meta {
    /// Opens the database, creating the file and bringing its tables up to date.
    pub async fn open_sqlite(path: &Path) -> Result<Self, DbErr> {
        let writer = dialect::sqlite_writer(path).await?;
        migrations::Migrator::up(&writer, None).await?;
        Self::with_writer(writer, path).await
    }

    /// Opens a database that a service may be using. Changes nothing about its tables: fails when they are not those of
    /// this version.
    pub async fn open_existing_sqlite(path: &Path) -> Result<Self, DbErr> {
        let writer = dialect::sqlite_writer(path).await?;
        if !migrations::Migrator::get_pending_migrations(&writer).await?.is_empty() {
            let message =
                "its tables are of an older version; they are brought up to date when the service starts";
            return Err(DbErr::Custom(message.to_owned()));
        }
        Self::with_writer(writer, path).await
    }

    async fn with_writer(writer: DatabaseConnection, path: &Path) -> Result<Self, DbErr> {
        let again = path.to_owned();
        let connect = Box::new(move || -> BoxFuture<'static, _> {
            let path = again.clone();
            Box::pin(async move { dialect::sqlite_writer(&path).await })
        });
        Ok(Self {
            reader: dialect::sqlite_reader(path).await?,
            writer: WriteQueue::start(writer, connect).map_err(|error| DbErr::Custom(error.to_string()))?,
            stored: Remembered::new(),
        })
    }

    /// Finds out whether the database can be read and written.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.reader.execute_unprepared("SELECT 1").await?;
        self.write(|_| Box::pin(async { Ok(()) })).await
    }

    /// Runs `work` in a transaction and returns when it is committed, durably. `work` may run more than once;
    /// what it changed before stays undone. An `Err` from it undoes everything.
    /// The work is done even if the caller no longer waits for it.
    async fn write<T, W>(&self, work: W) -> Result<T, DbErr>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbErr>> + Send + 'static,
    {
        let committing = self.writer.run(move |transaction| {
            let outcome = work(transaction);
            Box::pin(async { outcome.await.map(Verdict::Commit) })
        });
        committing.await
    }

    /// As [`write`](Self::write), for work that may decide in the end that nothing of it must stay.
    async fn write_or_undo<T, W>(&self, work: W) -> Result<T, DbErr>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<Verdict<T>, DbErr>> + Send + 'static,
    {
        self.writer.run(work).await
    }
}

/// Milliseconds since the Unix epoch: how every moment is recorded.
pub fn now_ms() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    i64::try_from(now).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn sqlite_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let meta = super::Meta::open_sqlite(&path).await.unwrap();
        super::contract::run(&meta).await;
        // Opening it again migrates nothing and finds everything.
        let again = super::Meta::open_sqlite(&path).await.unwrap();
        assert_eq!(again.newest_uid().await.unwrap(), meta.newest_uid().await.unwrap());
    }
}
