//! Processing of complete files: which files wait for a verdict, and what a verdict changes.

pub(crate) mod quarantine;
pub(crate) mod rescan;
pub(crate) mod verdict;
pub(crate) mod waiting;

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

/// The names of steps: those that a node has, or those that must judge a file. A name occurs once
/// for each step of this kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessingPolicy {
    /// Steps that must accept a file before it becomes readable.
    pub blocking: Vec<String>,
    /// Steps that run after a file has become readable.
    pub beside: Vec<String>,
}

impl ProcessingPolicy {
    /// The state of a file whose content has become complete.
    pub(crate) fn completed_state(&self) -> FileState {
        if self.blocking.is_empty() { FileState::Stored } else { FileState::Processing }
    }

    /// Returns the names of the steps in `required` that are not in `self`. Looks only at the steps
    /// that a task runs which is about `steps`.
    pub fn missing<'a>(&self, required: &'a Self, steps: ProcessSteps) -> Vec<&'a str> {
        let mut missing = Vec::new();
        if steps != ProcessSteps::Beside {
            missing.extend(without(&required.blocking, &self.blocking));
        }
        if steps != ProcessSteps::Blocking {
            missing.extend(without(&required.beside, &self.beside));
        }
        missing
    }
}

/// The names in `all` that are not in `known`. Each name in `known` counts once.
fn without<'a>(all: &'a [String], known: &[String]) -> Vec<&'a str> {
    let mut known: Vec<_> = known.iter().collect();
    let mut missing = Vec::new();
    for name in all {
        match known.iter().position(|one| *one == name) {
            Some(at) => drop(known.swap_remove(at)),
            None => missing.push(name.as_str()),
        }
    }
    missing
}

/// Payload of a processing task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPayload {
    /// Uid of the file.
    pub uid: i64,
    /// Which steps run.
    pub steps: ProcessSteps,
    /// The steps that must judge the file: those of the node on which it became complete. A node
    /// that lacks one of them does not run the task. `None` in tasks of versions that did not record
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<ProcessingPolicy>,
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
    fn task(&self, id: Uid) -> NewTask {
        // Serializing this struct cannot fail.
        let payload = serde_json::to_string(self).unwrap_or_default();
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
    let required = &node_stores.processing;
    let steps = match (required.blocking.is_empty(), required.beside.is_empty()) {
        (false, _) => ProcessSteps::Blocking,
        (true, false) => ProcessSteps::Beside,
        (true, true) => return Ok(()),
    };
    let task = ProcessPayload { uid: uid.get(), steps, required: Some(required.clone()) }.task(uid);
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
    /// The steps that this node has.
    pub fn policy(&self) -> &ProcessingPolicy {
        &self.db.node_stores.processing
    }

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
                let task = payload.task(task_id);
                Box::pin(async move { enqueue(transaction, task, blob_id, now).await })
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(blocking: &[&str], beside: &[&str]) -> ProcessingPolicy {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ProcessingPolicy { blocking: names(blocking), beside: names(beside) }
    }

    #[test]
    fn missing_steps_are_named() {
        let node = policy(&["scan", "command"], &["webhook"]);
        for (required, steps, missing) in [
            (policy(&["scan"], &[]), ProcessSteps::Blocking, vec![]),
            (policy(&["command", "scan", "command"], &[]), ProcessSteps::Blocking, vec!["command"]),
            (policy(&["webhook"], &[]), ProcessSteps::Blocking, vec!["webhook"]),
            (policy(&["type"], &["image"]), ProcessSteps::Blocking, vec!["type"]),
            (policy(&["type"], &["image"]), ProcessSteps::Beside, vec!["image"]),
            (policy(&["type"], &["image"]), ProcessSteps::Rescan, vec!["type", "image"]),
        ] {
            assert_eq!(node.missing(&required, steps), missing, "{required:?}");
        }
    }

    #[test]
    fn payloads_of_older_versions_are_read() {
        let payload: ProcessPayload = serde_json::from_str(r#"{"uid":7,"steps":"blocking"}"#).unwrap();
        assert_eq!(payload, ProcessPayload { uid: 7, steps: ProcessSteps::Blocking, required: None });
        let payload = ProcessPayload { required: Some(policy(&["scan"], &[])), ..payload };
        let text = serde_json::to_string(&payload).unwrap();
        assert!(text.starts_with(r#"{"uid":7,"steps":"blocking","#), "{text}");
        assert_eq!(serde_json::from_str::<ProcessPayload>(&text).unwrap(), payload);
    }
}
