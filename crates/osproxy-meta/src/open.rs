//! Opening and migrating a database.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sea_orm::{DatabaseConnection, DbErr};

use crate::{
    DatabaseLocation, DatabaseServer, Meta, MetaError, NodeStores, boxed_future,
    db::{
        self,
        database::{Database, Writer},
        instrumented::InstrumentedReader,
        reserve::Reserve,
        server_pool::{Reader, ServerPool},
        write_batcher::WriteBatcher,
    },
    events::signal::EventSignal,
    files::cache::FileCache,
};

/// Settings for opening a database.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// The stores that this process can access.
    pub node_stores: NodeStores,
    /// Limits of the file cache.
    pub cache: CacheLimits,
    /// Number of attempts before a task is dead.
    pub max_task_attempts: u32,
    /// Whether changes record events.
    pub records_events: bool,
}

/// Limits of the file cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Maximum number of files.
    pub max_entries: usize,
    /// Maximum age of an entry.
    pub max_age: Duration,
}

impl Meta {
    /// Opens the database and migrates its schema. Creates a missing SQLite file, but not a
    /// database on a server.
    #[boxed_future]
    pub async fn open(location: &DatabaseLocation, options: DatabaseOptions) -> Result<Self, MetaError> {
        match location {
            DatabaseLocation::File(path) => {
                let writer = db::connect::sqlite_writer(path).await?;
                db::migrate::migrate_schema(&writer).await?;
                let database = path.clone();
                let reserve = tokio::task::spawn_blocking(move || Arc::new(Reserve::create(&database))).await;
                let reserve = reserve.map_err(|error| DbErr::Custom(error.to_string()))?;
                Ok(Self::on_file(writer, path, options, Some(reserve)).await?)
            }
            DatabaseLocation::Server(server) => {
                db::migrate::migrate_server(server).await?;
                Ok(Self::on_server(server, options).await?)
            }
        }
    }

    /// Opens a database for read-only tools and administration commands, even while a running
    /// service uses it. Does not migrate the schema; fails if the schema does not match this
    /// version of osproxy. `options.node_stores` lists the stores that the caller can read.
    #[boxed_future]
    pub async fn open_existing(
        location: &DatabaseLocation,
        options: DatabaseOptions,
    ) -> Result<Self, MetaError> {
        match location {
            DatabaseLocation::File(path) => {
                let writer = db::connect::sqlite_writer(path).await?;
                db::migrate::ensure_current(&writer).await?;
                Ok(Self::on_file(writer, path, options, None).await?)
            }
            DatabaseLocation::Server(server) => {
                let connection = db::migrate::single_connection(server).await?;
                db::migrate::ensure_current(&connection).await?;
                connection.close().await?;
                Ok(Self::on_server(server, options).await?)
            }
        }
    }

    /// Returns a message for the operator: which database could not be opened, and why.
    pub fn open_error_message(location: &DatabaseLocation, error: &MetaError) -> String {
        match location {
            DatabaseLocation::File(path) => {
                format!("cannot open the database {}: {}", path.display(), error.driver())
            }
            DatabaseLocation::Server(server) => db::connect::open_error_message(server, error.driver()),
        }
    }

    async fn on_file(
        writer: DatabaseConnection,
        path: &Path,
        options: DatabaseOptions,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, DbErr> {
        let reconnect_path = path.to_owned();
        let connect = Box::new(move || -> BoxFuture<'static, _> {
            let path = reconnect_path.clone();
            Box::pin(async move { db::connect::sqlite_writer(&path).await })
        });
        let queue = WriteBatcher::start(writer, connect, reserve.clone())
            .map_err(|error| DbErr::Custom(error.to_string()))?;
        let reader = InstrumentedReader::new(Reader::Embedded(db::connect::sqlite_reader(path).await?));
        Ok(Self::new(Database {
            lookups: reader.sibling(Reader::Embedded(db::connect::sqlite_lookups(path).await?)),
            reader,
            writer: Writer::Embedded(queue),
            clock: options.node_stores.clock.clone(),
            node_stores: Arc::new(options.node_stores),
            file_cache: FileCache::new(options.cache),
            quotas: Arc::default(),
            max_task_attempts: options.max_task_attempts,
            reserve,
            listener: OnceLock::new(),
            records_events: options.records_events,
            event_signal: Arc::new(EventSignal::new(true)),
            task_listener: OnceLock::new(),
        }))
    }

    async fn on_server(server: &DatabaseServer, options: DatabaseOptions) -> Result<Self, DbErr> {
        let pool = db::connect::server_options(server)?;
        let timeout = server.timeout;
        let server = ServerPool::connect(pool, timeout, server.max_idle_connections).await?;
        let reader = InstrumentedReader::new(Reader::Server(server.clone()));
        let database = Database {
            lookups: reader.sibling(Reader::Server(server.clone())),
            reader,
            writer: Writer::Server(server),
            clock: options.node_stores.clock.clone(),
            node_stores: Arc::new(options.node_stores),
            file_cache: FileCache::new(options.cache),
            quotas: Arc::default(),
            max_task_attempts: options.max_task_attempts,
            reserve: None,
            listener: OnceLock::new(),
            records_events: options.records_events,
            event_signal: Arc::new(EventSignal::new(false)),
            task_listener: OnceLock::new(),
        };
        database.clock.sync(&database.reader).await?;
        Ok(Self::new(database))
    }
}

/// Migrates the schema of a database to the schema of this version of osproxy. Creates a missing
/// SQLite file, but not a database on a server.
#[boxed_future]
pub async fn migrate(location: &DatabaseLocation) -> Result<(), MetaError> {
    match location {
        DatabaseLocation::File(path) => {
            Ok(db::migrate::migrate_schema(&db::connect::sqlite_writer(path).await?).await?)
        }
        DatabaseLocation::Server(server) => Ok(db::migrate::migrate_server(server).await?),
    }
}
