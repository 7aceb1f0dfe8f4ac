//! What the operations share: handles, no transport.

use std::{
    collections::HashSet,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use osproxy_storage::{Backend, backends::Local};
use tokio_util::task::TaskTracker;

use crate::{
    Error, Result,
    config::Config,
    coord::{Coordinator, InProcess},
    link::{LinkKey, LinkKeys},
    meta::Meta,
    uid::{Uid, UidGenerator},
};

/// A running node.
pub struct App {
    /// Metadata.
    pub meta: Meta,
    /// Where objects go.
    pub storage: Arc<dyn Backend>,
    /// Signs and verifies links.
    pub links: LinkKeys,
    /// Bounds on what is asked for.
    pub limits: Limits,
    /// Work that outlives the request that caused it. Closed and awaited when the node stops.
    pub background: TaskTracker,
    uids: UidGenerator,
    coordinator: Box<dyn Coordinator>,
    writing: Mutex<HashSet<i64>>,
}

/// Bounds on what is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest file, in bytes.
    pub max_size: u64,
    /// Longest time that a link may hold, in seconds.
    pub max_expire: i64,
}

impl App {
    /// Opens everything that a node stands on. Fails with a sentence that says what cannot be used.
    pub async fn open(config: &Config) -> anyhow::Result<Arc<Self>> {
        let data_dir = &config.data_dir;
        create_private(data_dir)
            .with_context(|| format!("cannot use the data folder {}", data_dir.display()))?;
        let coordinator = InProcess::open(data_dir).with_context(|| {
            format!("cannot lock the data folder {}; is another osproxy using it?", data_dir.display())
        })?;
        let database = config.database_path();
        let meta = Meta::open_sqlite(&database)
            .await
            .with_context(|| format!("cannot open the database {}", database.display()))?;
        let root = config.objects_root();
        let storage = Local::open(&root, config.local.fsync).await.map_err(|error| {
            anyhow::anyhow!(crate::error::chain(&error)).context(format!(
                "cannot use the object folder {}; is another osproxy using it?",
                root.display()
            ))
        })?;
        let newest = meta.newest_uid().await.context("cannot read the newest uid")?;
        let links = link_keys(config, &meta).await?;
        Ok(Arc::new(Self {
            meta,
            storage: Arc::new(storage),
            links,
            limits: Limits {
                max_size: config.uploads.max_size,
                max_expire: i64::try_from(config.links.max_expire)?,
            },
            background: TaskTracker::new(),
            uids: UidGenerator::new(newest),
            coordinator: Box::new(coordinator),
            writing: Mutex::default(),
        }))
    }

    /// A uid that nobody has.
    pub async fn next_uid(&self) -> Result<Uid> {
        let uid = self.uids.next(self.coordinator.worker_id()).await;
        uid.map_err(Error::unavailable)
    }

    /// Numbers of the blobs that this process is writing or removing at this moment.
    pub fn writing(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates the folder for its owner alone: it holds the keys that sign links.
fn create_private(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The configured keys; else those in the database, made at the first start.
async fn link_keys(config: &Config, meta: &Meta) -> anyhow::Result<LinkKeys> {
    let mut keys = Vec::new();
    for section in &config.links.keys {
        keys.push(section.key().map_err(anyhow::Error::msg)?);
    }
    if keys.is_empty() {
        let mut secret = vec![0; 32];
        getrandom::fill(&mut secret).context("the system gives no random numbers")?;
        let mut id = [0; 4];
        getrandom::fill(&mut id).context("the system gives no random numbers")?;
        for (id, secret) in meta.link_keys((hex::encode(id), secret)).await? {
            keys.push(LinkKey::new(&id, &secret)?);
        }
    }
    let mut keys = keys.into_iter();
    let signing = keys.next().context("there is no key to sign links with")?;
    Ok(LinkKeys::new(signing, keys.collect()))
}
