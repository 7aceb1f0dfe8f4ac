//! Objects in the stores: deduplication, deletion, multipart uploads, reading, and write guards.

pub(crate) mod deduplicate;
pub(crate) mod delete;
pub(crate) mod hot_content;
pub(crate) mod inspect;
pub(crate) mod multipart;
pub(crate) mod reader;
pub(crate) mod write_guard;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use osproxy_cluster::Owners;
use osproxy_meta::Meta;
use tokio::sync::Semaphore;

use crate::{DetachedWork, Stores, Uids, admission::Admission, settings::Limits, tasks::TaskNotifier};

/// The objects of this node's stores, together with their rows.
pub struct Objects {
    pub(crate) meta: Arc<Meta>,
    pub(crate) stores: Arc<Stores>,
    pub(crate) owners: Owners,
    pub(crate) admission: Arc<Admission>,
    pub(crate) uids: Arc<Uids>,
    pub(crate) task_notifier: Arc<TaskNotifier>,
    pub(crate) detached_work: Arc<DetachedWork>,
    pub(crate) limits: Limits,
    pub(crate) active_writes: Mutex<HashSet<i64>>,
    pub(crate) locks: multipart::ObjectLocks,
    /// Small content that is read often.
    pub(crate) hot_content: hot_content::HotContent,
    /// Limits concurrent inspections of uploads.
    pub(crate) inspections: Semaphore,
}

impl Objects {
    /// Ids of the blobs and parts that this process is writing now.
    pub(crate) fn active_writes(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.active_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
