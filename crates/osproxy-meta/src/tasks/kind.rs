//! Kinds of tasks.

use osproxy_types::uid::Uid;
use sea_orm::{DatabaseTransaction, DbErr};
use serde::{Deserialize, Serialize};

use crate::tasks::{NewTask, queue};

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskKind {
    /// Moves objects out of packs with much dead space, and removes these packs.
    CompactPacks,
    /// Resumes the completion of multipart uploads.
    CompleteUploads,
    /// Deletes content that no file refers to.
    DeleteBlob,
    /// Delivers events to webhooks.
    DeliverWebhooks,
    /// Applies the lifecycle rules of buckets.
    ExpireObjects,
    /// Expires uploads.
    ExpireUploads,
    /// Merges the parts of a blob into one object.
    MergeParts,
    /// Runs the steps of processing on a complete file.
    ProcessFile,
    /// Removes orphans.
    Sweep,
    /// Computes the digests of a blob and compares them with the expected ones.
    VerifyBlob,
    /// Any other kind, by its name.
    Other(&'static str),
}

impl TaskKind {
    /// The name of the kind in the database and in lists. Must never change once released.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CompactPacks => "compact_packs",
            Self::CompleteUploads => "complete_uploads",
            Self::DeleteBlob => "delete_blob",
            Self::DeliverWebhooks => "deliver_webhooks",
            Self::ExpireObjects => "expire_objects",
            Self::ExpireUploads => "expire_uploads",
            Self::MergeParts => "merge_parts",
            Self::ProcessFile => "process_file",
            Self::Sweep => "sweep",
            Self::VerifyBlob => "verify_blob",
            Self::Other(name) => name,
        }
    }
}

/// Payload of a task that works on one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPayload {
    /// Id of the blob.
    pub blob_id: i64,
}

impl NewTask {
    /// Creates a task for a blob. `id` must be unused.
    pub fn for_blob(kind: TaskKind, id: Uid, blob_id: i64, max_attempts: u32) -> Self {
        // Serializing this struct cannot fail.
        let payload = serde_json::to_string(&BlobPayload { blob_id }).unwrap_or_default();
        Self { id: id.get(), kind, payload, max_attempts }
    }
}

/// Values that are known before a transaction enqueues a task. The transaction adds the kind, the
/// blob and the store.
#[derive(Clone, Copy)]
pub(crate) struct TaskSeed {
    /// An unused id.
    pub(crate) id: Uid,
    pub(crate) max_attempts: u32,
    /// The time of the database's clock.
    pub(crate) now: i64,
}

impl TaskSeed {
    /// Enqueues a task for a blob. Only a node that has `store` runs it.
    pub(crate) async fn enqueue(
        self,
        transaction: &DatabaseTransaction,
        kind: TaskKind,
        blob_id: i64,
        store: String,
    ) -> Result<(), DbErr> {
        let task = NewTask::for_blob(kind, self.id, blob_id, self.max_attempts);
        queue::enqueue(transaction, task, Some(store), self.now).await
    }
}
