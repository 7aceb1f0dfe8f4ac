//! Metadata: the only place with SQL.
//!
//! Every change of state is a conditional UPDATE that names the state it expects; whoever affects no row has
//! lost. Callers hand over what they know and get back what became of it, never a connection.

mod alone;
mod api_keys;
mod audit;
mod blobs;
mod challenges;
mod changes;
mod claims;
mod clock;
mod collecting;
mod completions;
#[cfg(test)]
mod contract;
mod dialect;
mod entities;
mod failures;
mod files;
mod finishing;
mod go;
mod history;
mod idempotency;
mod imports;
mod inspection;
mod link_keys;
mod links;
mod listing;
mod measured;
mod merges;
mod migrate;
mod migrations;
mod native;
mod parts;
mod pieces;
mod places;
mod quotas;
mod recorded_objects;
mod remembered;
mod removals;
mod reserve;
mod room;
mod server;
mod stats;
mod task_list;
mod tasks;
mod tenants;
#[cfg(test)]
mod tests;
mod unfinished;
mod upload_status;
mod uploads;
mod write_queue;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use osproxy_storage::{Category, Key, extension};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction};

pub use alone::Alone;
pub use api_keys::KeptKey;
pub use audit::{BlobState, PartState, RecordedBlob, RecordedContent, RecordedLayout, RecordedPart};
pub use blobs::Blob;
pub use challenges::Challenge;
pub use changes::{Copied, MetadataChange, Updated};
pub use claims::Claims;
pub use completions::{AfterCompletion, Completed, Completion};
pub use files::{
    Announced, Content, CreatedFiles, FileState, KnownContent, Layout, NewFile, NewUpload, StoredFile,
};
pub use go::{GoDatabase, GoFile, GoPart, GoTasks, Tables as GoTables};
pub use history::{BlobHistory, History, PartHistory};
pub use idempotency::{Keyed, KeyedAnswer, KeyedRequest};
pub use imports::{ImportInto, Imported, ImportedContent, ImportedFile, ImportedPart};
pub use inspection::{Conditions, Inspected, Inspection};
pub use listing::{FileFilter, FilePosition, FileRecord, MAX_PREFIX, Metadata};
pub use merges::{Merge, MergeIntent, Merged, UnverifiedBlob, WholeBlob};
pub use native::{Lost, NativePlace, NativeUpload};
pub use parts::{BegunPart, FinishedPart, Misfit, PartIntent, ReceivedPart, StoredPart};
pub use pieces::Fingerprint;
pub use places::PartsIn;
pub use quotas::Usage;
pub use removals::{Remains, Removed};
pub use room::OpenUploads;
pub use sea_orm::DbErr;
pub use stats::Stats;
pub use task_list::TaskFilter;
pub use tasks::{Attempt, AttemptOutcome, ClaimedTask, Ended, NewTask, Task, TaskForBlob, TaskState};
pub use tenants::TenantUsage;
pub use unfinished::{Condemned, Kind, Unfinished};
pub use upload_status::UploadStatus;
pub use uploads::{Begun, Finished, Intent, Released};

use crate::{
    config::{DatabaseLocation, DatabaseServer},
    uid::Uid,
};
use clock::Clock;
use measured::Measured;
use quotas::Quotas;
use remembered::Remembered;
use reserve::Reserve;
use server::{Reader, Server};
use write_queue::{Verdict, WriteQueue};

/// The metadata database, as this node uses it.
pub struct Meta {
    reader: Measured,
    writer: Writer,
    clock: Clock,
    here: Arc<Here>,
    /// Content of a uid never changes once stored, so what is remembered only goes stale when a file is removed or
    /// its object moves.
    stored: Remembered,
    quotas: Arc<Quotas>,
    /// Room for a file on a disk that others fill.
    reserve: Option<Arc<Reserve>>,
    listener: OnceLock<Listener>,
}

/// The way to change anything.
enum Writer {
    /// One connection, for which writers queue.
    Embedded(WriteQueue),
    /// Many, which the server keeps apart.
    Server(Arc<Server>),
}

/// What rows call this process, and the stores whose objects it has at hand.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// The process; no two have the same name.
    pub node: String,
    /// The stores. New files go to the first.
    pub stores: Vec<StoreHere>,
    clock: Clock,
}

/// A store whose objects a process has at hand.
#[derive(Clone, Debug)]
pub struct StoreHere {
    /// What rows call it, at most 16 bytes.
    pub name: String,
    /// The parts that it puts together itself, if it does.
    pub parts: Option<PartSizes>,
    /// Whether new objects go to shards of their categories' folders.
    pub has_shards: bool,
}

/// How large parts may be that a store puts together itself, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct PartSizes {
    /// All but the last one.
    pub min: u64,
    /// Each of them.
    pub max: u64,
    /// Whether they have their places in the object from the start, so that all must be known about their sizes before.
    pub placed: bool,
}

impl Here {
    /// `stores`: new files go to the first.
    pub fn new(node: String, stores: Vec<StoreHere>) -> Self {
        Self { node, stores, clock: Clock::default() }
    }

    fn store(&self, name: &str) -> Option<&StoreHere> {
        self.stores.iter().find(|here| here.name == name)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.stores.iter().map(|here| here.name.as_str())
    }

    fn for_new(&self) -> &str {
        self.names().next().unwrap_or_default()
    }

    /// The key of a new object in `store` that holds a whole blob, of a file with this name.
    fn whole_key(&self, store: &str, name: &str, blob_id: i64) -> Key {
        let key = Key::whole(Category::of_object(name), blob_id, extension(name).as_deref());
        self.place(store, key, blob_id)
    }

    /// The key of a new object in `store` that holds a part of a blob; see [`Key::part`].
    fn part_key(&self, store: &str, name: &str, blob_id: i64, number: u32, attempt: Option<i64>) -> Key {
        self.place(store, Key::part(Category::of_object(name), blob_id, number, attempt), blob_id)
    }

    fn place(&self, store: &str, key: Key, blob_id: i64) -> Key {
        if self.store(store).is_some_and(|store| store.has_shards) { key.in_shard(blob_id) } else { key }
    }
}

/// What is not as it may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file is gone.
    File(Uid),
    /// The bytes of a blob's files are elsewhere, or gone.
    Blob(i64),
}

/// Told of every change that this node makes.
type Listener = Box<dyn Fn(Change) + Send + Sync>;

/// How much is remembered, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// How many files.
    pub entries: usize,
    /// How long each of them.
    pub time: Duration,
}

impl Meta {
    /// Opens the database, bringing its tables up to date. The file of `SQLite` is made when it is not there; a database
    /// on a server is not.
    pub async fn open(location: &DatabaseLocation, here: Here, memory: Memory) -> Result<Self, DbErr> {
        match location {
            DatabaseLocation::File(path) => {
                let writer = dialect::sqlite_writer(path).await?;
                migrate::tables(&writer).await?;
                let database = path.clone();
                let reserve = tokio::task::spawn_blocking(move || Arc::new(Reserve::of(&database))).await;
                let reserve = reserve.map_err(|error| DbErr::Custom(error.to_string()))?;
                Self::on_file(writer, path, here, memory, Some(reserve)).await
            }
            DatabaseLocation::Server(server) => {
                migrate::server(server).await?;
                Self::on_server(server, here, memory).await
            }
        }
    }

    /// Opens a database that a service may be using. Changes nothing about its tables: fails when they are not those of
    /// this version. For those who look, and work on nothing; `here` says what they can look at.
    pub async fn open_existing(
        location: &DatabaseLocation,
        here: Here,
        memory: Memory,
    ) -> Result<Self, DbErr> {
        match location {
            DatabaseLocation::File(path) => {
                let writer = dialect::sqlite_writer(path).await?;
                migrate::must_be_current(&writer).await?;
                Self::on_file(writer, path, here, memory, None).await
            }
            DatabaseLocation::Server(server) => {
                let connection = migrate::single_connection(server).await?;
                migrate::must_be_current(&connection).await?;
                connection.close().await?;
                Self::on_server(server, here, memory).await
            }
        }
    }

    /// Says what is wrong when a database cannot be opened, for people.
    pub fn explain(location: &DatabaseLocation, error: &DbErr) -> String {
        match location {
            DatabaseLocation::File(path) => format!("cannot open the database {}: {error}", path.display()),
            DatabaseLocation::Server(server) => dialect::explain(server, error),
        }
    }

    async fn on_file(
        writer: DatabaseConnection,
        path: &Path,
        here: Here,
        memory: Memory,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, DbErr> {
        let again = path.to_owned();
        let connect = Box::new(move || -> BoxFuture<'static, _> {
            let path = again.clone();
            Box::pin(async move { dialect::sqlite_writer(&path).await })
        });
        let queue = WriteQueue::start(writer, connect, reserve.clone())
            .map_err(|error| DbErr::Custom(error.to_string()))?;
        Ok(Self {
            reader: Measured::new(Reader::Embedded(dialect::sqlite_reader(path).await?)),
            writer: Writer::Embedded(queue),
            clock: here.clock.clone(),
            here: Arc::new(here),
            stored: Remembered::new(memory),
            quotas: Arc::default(),
            reserve,
            listener: OnceLock::new(),
        })
    }

    async fn on_server(server: &DatabaseServer, here: Here, memory: Memory) -> Result<Self, DbErr> {
        let options = dialect::server_options(server)?;
        let timeout = Duration::from_secs(server.timeout);
        let server = Server::connect(options, timeout, server.max_idle_conns).await?;
        let meta = Self {
            reader: Measured::new(Reader::Server(server.clone())),
            writer: Writer::Server(server),
            clock: here.clock.clone(),
            here: Arc::new(here),
            stored: Remembered::new(memory),
            quotas: Arc::default(),
            reserve: None,
            listener: OnceLock::new(),
        };
        meta.clock.adjust(&meta.reader).await?;
        Ok(meta)
    }

    /// Lets `listener` be told of every change that others may not know of. Only the first one counts.
    pub fn tell_changes(&self, listener: impl Fn(Change) + Send + Sync + 'static) {
        // A second one would be a mistake that the first need not suffer from.
        let _ = self.listener.set(Box::new(listener));
    }

    /// Forgets what another node has changed.
    pub fn hear_change(&self, change: Change) {
        match change {
            Change::File(uid) => self.stored.forget_file(uid),
            Change::Blob(blob_id) => self.stored.forget_blob(blob_id),
        }
    }

    /// Forgets everything. While changes of others are not heard of, nothing is remembered.
    pub fn hear_changes(&self, heard: bool) {
        self.stored.trust(heard);
    }

    fn changed(&self, change: Change) {
        self.hear_change(change);
        if let Some(tell) = self.listener.get() {
            tell(change);
        }
    }

    /// Milliseconds since the Unix epoch, as the database has them.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Whether the disk of the database is full: what makes room can be recorded, nothing else should be.
    pub fn is_full(&self) -> bool {
        self.reserve.as_ref().is_some_and(|reserve| reserve.is_spent())
    }

    /// Finds out whether the database can be read and written.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.reader.execute_unprepared("SELECT 1").await?;
        self.write(|_| Box::pin(async { Ok(()) })).await
    }

    /// Takes a lock that all nodes know, until what this gives is dropped. A file has one process, and needs none.
    async fn lock(&self, lock: dialect::Lock, wait: Duration) -> Result<Option<DatabaseConnection>, DbErr> {
        match &self.writer {
            Writer::Embedded(_) => Ok(None),
            Writer::Server(server) => server.lock(lock, wait).await.map(Some),
        }
    }

    /// Runs `work` in a transaction and returns when it is committed, durably. `work` may run more than once;
    /// what it changed before stays undone. An `Err` from it undoes everything.
    /// The work is done even if the caller no longer waits for it.
    async fn write<T, W>(&self, work: W) -> Result<T, DbErr>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbErr>> + Send + Sync + 'static,
    {
        let committing = self.write_or_undo(move |transaction| {
            let outcome = work(transaction);
            Box::pin(async { outcome.await.map(Verdict::Commit) })
        });
        committing.await
    }

    /// As [`write`](Self::write), for work that may decide in the end that nothing of it must stay.
    async fn write_or_undo<T, W>(&self, work: W) -> Result<T, DbErr>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<Verdict<T>, DbErr>>
            + Send
            + Sync
            + 'static,
    {
        let running = async {
            match &self.writer {
                Writer::Embedded(queue) => queue.run(work).await,
                Writer::Server(server) => {
                    let server = server.clone();
                    let writing = tokio::spawn(async move { server.write(work).await });
                    writing.await.map_err(|error| DbErr::Custom(error.to_string()))?
                }
            }
        };
        self.reader.transaction(running).await
    }
}

/// Brings the tables of a database up to date.
pub async fn migrate(location: &DatabaseLocation) -> Result<(), DbErr> {
    match location {
        DatabaseLocation::File(path) => migrate::tables(&dialect::sqlite_writer(path).await?).await,
        DatabaseLocation::Server(server) => migrate::server(server).await,
    }
}

/// Milliseconds since the Unix epoch: how every moment is recorded.
pub fn now_ms() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    i64::try_from(now).unwrap_or(i64::MAX)
}
