//! Processing of complete files: which files wait for a verdict, and what a verdict changes.

pub(crate) mod quarantine;
pub(crate) mod rescan;
pub(crate) mod verdict;

use std::sync::Arc;

use osproxy_types::uid::Uid;
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect};
use serde::{Deserialize, Serialize};

use crate::{
    FileMetadata, FileState, MetaError, NodeStores, StoredFile, boxed_future,
    db::{
        database::Database,
        entities::{blob, file},
    },
    files::{listing::decode_metadata, rows::file_from_row},
    tasks::{NewTask, kind::TaskKind, queue},
};

/// Maximum attempts of a processing task: so many that it never becomes dead. A file that waits for
/// a verdict must not be forgotten.
const UNLIMITED: u32 = 1_000_000_000;

/// Handle for the processing of files.
#[derive(Clone)]
pub struct ProcessingDb {
    pub(crate) db: Arc<Database>,
}

/// Which steps are configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessingPolicy {
    /// Whether files become readable only after a verdict.
    pub blocking: bool,
    /// Whether files are processed after they have become readable.
    pub beside: bool,
}

impl ProcessingPolicy {
    /// The state of a file whose content has become complete.
    pub(crate) fn completed_state(self) -> FileState {
        if self.blocking { FileState::Processing } else { FileState::Stored }
    }
}

/// Payload of a processing task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPayload {
    /// Uid of the file.
    pub uid: i64,
    /// Which steps run.
    pub steps: ProcessSteps,
}

/// The steps that a processing task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessSteps {
    /// The blocking steps, for a file that nobody can read yet.
    Blocking,
    /// The other steps, for a readable file.
    Beside,
    /// All steps, for a readable file.
    Rescan,
}

/// A file to process.
#[derive(Clone, Debug)]
pub struct ProcessingFile {
    /// The file and its content.
    pub file: Arc<StoredFile>,
    /// Its state: `processing` or `stored`.
    pub state: FileState,
    /// Metadata set by the owner.
    pub metadata: FileMetadata,
}

impl ProcessPayload {
    fn task(self, id: Uid) -> NewTask {
        // Serializing this struct cannot fail.
        let payload = serde_json::to_string(&self).unwrap_or_default();
        NewTask { id: id.get(), kind: TaskKind::ProcessFile, payload, max_attempts: UNLIMITED }
    }
}

/// Enqueues the task that processes a file whose content has become complete, if steps are
/// configured. The task has the id of the file: a file becomes complete once.
pub(crate) async fn enqueue_first(
    transaction: &DatabaseTransaction,
    node_stores: &NodeStores,
    uid: Uid,
    blob_id: i64,
) -> Result<(), DbErr> {
    let ProcessingPolicy { blocking, beside } = node_stores.processing;
    let steps = match (blocking, beside) {
        (true, _) => ProcessSteps::Blocking,
        (false, true) => ProcessSteps::Beside,
        (false, false) => return Ok(()),
    };
    let task = ProcessPayload { uid: uid.get(), steps }.task(uid);
    enqueue(transaction, task, blob_id, node_stores.clock.now_ms()).await
}

/// Enqueues a task that runs on a node that has the content.
async fn enqueue(
    transaction: &DatabaseTransaction,
    task: NewTask,
    blob_id: i64,
    now: i64,
) -> Result<(), DbErr> {
    let store = blob::Entity::find_by_id(blob_id).select_only().column(blob::Column::Backend);
    let store: Option<String> = store.into_tuple().one(transaction).await?;
    queue::enqueue(transaction, task, store, now).await
}

impl ProcessingDb {
    /// The state of a file whose content becomes complete on this node.
    pub fn completed_state(&self) -> FileState {
        self.db.node_stores.processing.completed_state()
    }

    /// Returns a file that can be processed; `None` if it is in another state than `processing` or
    /// `stored`.
    #[boxed_future]
    pub async fn file(&self, uid: Uid) -> Result<Option<ProcessingFile>, MetaError> {
        let row = file::Entity::find_by_id(uid.get())
            .find_also_related(blob::Entity)
            .filter(file::Column::State.is_in([FileState::Processing, FileState::Stored]))
            .one(&self.db.lookups)
            .await?;
        let Some((file, blob)) = row else {
            return Ok(None);
        };
        let (state, metadata) = (file.state, decode_metadata(&file)?);
        Ok(Some(ProcessingFile { file: Arc::new(file_from_row(file, blob)?), state, metadata }))
    }

    /// Enqueues a task like the one with this payload for the store that the content is in now.
    #[boxed_future]
    pub async fn enqueue_again(
        &self,
        payload: ProcessPayload,
        blob_id: i64,
        task_id: Uid,
    ) -> Result<(), MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                Box::pin(async move { enqueue(transaction, payload.task(task_id), blob_id, now).await })
            })
            .await
    }
}
