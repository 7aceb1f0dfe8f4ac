//! What became of an upload, as far as it is recorded.

use sea_orm::{ActiveEnum, ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};

use super::{
    Attempt, BlobState, FileState, Meta, PartState, Task,
    entities::{blob, file, part, task},
};
use crate::uid::Uid;

/// All that is recorded of a file and how it came to be. Moments are in milliseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct History {
    /// What the client called it.
    pub name: String,
    /// Where it stands.
    pub state: FileState,
    /// When its link was issued.
    pub created_at: i64,
    /// When its upload lapses; once it is gone, when it went.
    pub expires_at: i64,
    /// When its content was complete.
    pub stored_at: Option<i64>,
    /// The process that made it complete; not set if it had its content from the start.
    pub stored_by: Option<String>,
    /// How many parts it was sent in, if it was.
    pub part_count: Option<u32>,
    /// When the first of these parts was begun, when the last one was stored, and how many processes took them.
    pub received: Option<(i64, i64, u32)>,
    /// The number of the blob that it was received as: another one than it has now, if that had the same content.
    pub received_as: Option<i64>,
    /// Its content.
    pub blob: Option<BlobHistory>,
    /// Every attempt to send a part that is still recorded: by their numbers, then in the order in which they were begun.
    pub parts: Vec<PartHistory>,
}

/// Content, and how it came to be.
#[derive(Clone, Debug)]
pub struct BlobHistory {
    /// Its number.
    pub id: i64,
    /// Where it stands.
    pub state: BlobState,
    /// Whether it lies in one object.
    pub is_whole: bool,
    /// The store that holds it.
    pub store: String,
    /// Bytes.
    pub size: u64,
    /// Whether osproxy has digested all of it.
    pub is_verified: bool,
    /// How many files have it.
    pub files: u32,
    /// When it was begun.
    pub created_at: i64,
    /// The process that began it.
    pub written_by: Option<String>,
}

/// An attempt to send a part.
#[derive(Clone, Debug)]
pub struct PartHistory {
    /// The place of the part.
    pub number: u32,
    /// Where the attempt stands.
    pub state: PartState,
    /// Bytes, once it is stored.
    pub size: u64,
    /// When it was begun.
    pub created_at: i64,
    /// When it was stored.
    pub stored_at: Option<i64>,
    /// The process that took it.
    pub written_by: Option<String>,
}

impl Meta {
    /// All that is recorded of a file; `None` when the uid is unknown.
    pub async fn history(&self, uid: Uid) -> Result<Option<History>, DbErr> {
        let found =
            file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity).one(&self.reader).await?;
        let Some((file, blob)) = found else {
            return Ok(None);
        };
        let mut parts = Vec::new();
        if let Some(blob_id) = file.received_as.or(file.blob_id) {
            let rows = part::Entity::find()
                .filter(part::Column::BlobId.eq(blob_id))
                .order_by_asc(part::Column::Number)
                .order_by_asc(part::Column::Id);
            parts = rows.all(&self.reader).await?;
        }
        let received = file.received_from.zip(file.received_until).zip(file.received_nodes);
        Ok(Some(History {
            name: file.name,
            state: file.state,
            created_at: file.created_at,
            expires_at: file.expires_at,
            stored_at: file.stored_at,
            stored_by: file.stored_by,
            part_count: file.part_count.map(i32::cast_unsigned),
            received: received.map(|((from, until), nodes)| (from, until, nodes.cast_unsigned())),
            received_as: file.received_as,
            blob: blob.map(|blob| BlobHistory {
                id: blob.id,
                state: blob.state,
                is_whole: blob.layout == blob::Layout::Whole,
                is_verified: blob.blake3.is_some(),
                store: blob.backend,
                size: blob.size.unsigned_abs(),
                files: blob.refs.unsigned_abs(),
                created_at: blob.created_at,
                written_by: blob.written_by,
            }),
            parts: parts.into_iter().map(part_history).collect(),
        }))
    }

    /// Tasks with one of these payloads and their attempts, the oldest first. Reads all tasks: not to be asked for often.
    pub async fn tasks_with(&self, payloads: &[String]) -> Result<Vec<(Task, Vec<Attempt>)>, DbErr> {
        let tasks = task::Entity::find()
            .filter(task::Column::Payload.is_in(payloads))
            .order_by_asc(task::Column::CreatedAt)
            .order_by_asc(task::Column::Id)
            .all(&self.reader)
            .await?;
        let mut found = Vec::with_capacity(tasks.len());
        for row in tasks {
            found.extend(self.task(row.id).await?);
        }
        Ok(found)
    }
}

fn part_history(row: part::Model) -> PartHistory {
    PartHistory {
        number: row.number.cast_unsigned(),
        state: row.state,
        size: row.size.unsigned_abs(),
        created_at: row.created_at,
        stored_at: row.stored_at,
        written_by: row.written_by,
    }
}

impl BlobState {
    /// The name, as it stands in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}

impl PartState {
    /// The name, as it stands in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}
