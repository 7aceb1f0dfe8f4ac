//! Handles: the parts of a node that operations work with.

use std::sync::Arc;

use osproxy_cluster::Coordinator;
use osproxy_meta::{Meta, TaskDb};

use crate::{
    DetachedWork, IdempotencyKeys, NodeState, Stores, admission::Admission, appends::AppendLocks,
    buckets::BucketCache, links::LinkConstraints, links::Links, metrics::Metrics, objects::Objects,
    session::WriteFailures, settings::Limits, tasks::TaskNotifier, uids::Uids,
};

/// Handle for operations on files: describe, list, download, update, copy, delete, links.
pub struct FileOps {
    pub(crate) meta: Arc<Meta>,
    pub(crate) stores: Arc<Stores>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) idempotency: Arc<IdempotencyKeys>,
    pub(crate) uids: Arc<Uids>,
    pub(crate) task_notifier: Arc<TaskNotifier>,
    pub(crate) detached_work: Arc<DetachedWork>,
    pub(crate) limits: Limits,
    pub(crate) node: NodeState,
}

/// Handle for operations on upload sessions: create, upload, complete, abort, instant upload.
pub struct UploadOps {
    pub(crate) files: Arc<FileOps>,
    pub(crate) meta: Arc<Meta>,
    pub(crate) stores: Arc<Stores>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) idempotency: Arc<IdempotencyKeys>,
    pub(crate) links: Arc<Links>,
    pub(crate) uids: Arc<Uids>,
    pub(crate) task_notifier: Arc<TaskNotifier>,
    pub(crate) detached_work: Arc<DetachedWork>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) write_failures: WriteFailures,
    pub(crate) append_locks: Arc<AppendLocks>,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) bucket_cache: BucketCache,
}

impl UploadOps {
    /// Maximum size of a file, in bytes.
    pub fn max_size(&self) -> u64 {
        self.limits.max_size
    }

    /// Maximum size of a file that is uploaded with these constraints, in bytes.
    pub fn max_size_within(&self, constraints: &LinkConstraints) -> u64 {
        self.limits.max_size.min(constraints.max_size.unwrap_or(u64::MAX))
    }

    pub(crate) fn new(
        files: Arc<FileOps>,
        links: Arc<Links>,
        metrics: Arc<Metrics>,
        coordinator: Arc<dyn Coordinator>,
    ) -> Self {
        Self {
            meta: files.meta.clone(),
            stores: files.stores.clone(),
            objects: files.objects.clone(),
            admission: files.admission.clone(),
            idempotency: files.idempotency.clone(),
            uids: files.uids.clone(),
            task_notifier: files.task_notifier.clone(),
            detached_work: files.detached_work.clone(),
            limits: files.limits,
            files,
            links,
            metrics,
            write_failures: WriteFailures::default(),
            append_locks: AppendLocks::new(coordinator.clone()),
            coordinator,
            bucket_cache: BucketCache::default(),
        }
    }
}

/// Handle for operations on tasks: describe, list, retry.
pub struct TaskOps {
    pub(crate) db: TaskDb,
    pub(crate) task_notifier: Arc<TaskNotifier>,
    pub(crate) limits: Limits,
}
