//! The recorded history of a file and its upload, for diagnosis.

use osproxy_types::uid::Uid;
use sea_orm::{ActiveEnum, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder};

use crate::MetaError;
use crate::{
    AdminDb, Attempt, BlobState, Concatenation, FileState, PartState, TaskRecord, boxed_future,
    db::entities::{blob, file, part, task},
    processing,
    tasks::list,
};

/// A file and the history of its upload. All timestamps are in milliseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct FileHistory {
    /// File name.
    pub name: String,
    /// Lifecycle state.
    pub state: FileState,
    /// When the upload session was created.
    pub created_at: i64,
    /// When the upload expires. For an expired, deleted or corrupt file: when it entered that
    /// state.
    pub expires_at: i64,
    /// When the content became complete.
    pub stored_at: Option<i64>,
    /// The process that completed the upload; `None` if the file was created with content that was
    /// stored already.
    pub stored_by: Option<String>,
    /// Number of parts; `None` if the file was not uploaded in parts.
    pub part_count: Option<u32>,
    /// For a file uploaded in parts: start of the earliest write of a part, end of the latest write
    /// of a part, and number of processes that received parts.
    pub received: Option<(i64, i64, u32)>,
    /// Id of the blob that received the content. Differs from the id of `blob` if the content
    /// turned out to be a duplicate.
    pub received_as: Option<i64>,
    /// The blob that the file refers to now.
    pub blob: Option<BlobHistory>,
    /// Role of the upload in a concatenation, if any.
    pub concatenation: Option<Concatenation>,
    /// JSON text with what the steps of processing said.
    pub verdict: Option<String>,
    /// The writes of parts whose rows still exist, ordered by part number. Writes of the same part
    /// are ordered by start, oldest first.
    pub parts: Vec<PartHistory>,
}

/// The blob that a file refers to.
#[derive(Clone, Debug)]
pub struct BlobHistory {
    /// Blob id.
    pub id: i64,
    /// Lifecycle state.
    pub state: BlobState,
    /// Whether the blob is one object.
    pub is_whole: bool,
    /// Name of the store.
    pub store: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether osproxy has computed the digests.
    pub is_verified: bool,
    /// Number of files that share the blob.
    pub files: u32,
    /// When the blob was created.
    pub created_at: i64,
    /// The process that created the blob; `None` if imported.
    pub written_by: Option<String>,
}

/// One write of a part.
#[derive(Clone, Debug)]
pub struct PartHistory {
    /// Part number.
    pub number: u32,
    /// Lifecycle state.
    pub state: PartState,
    /// Size in bytes; 0 until stored.
    pub size: u64,
    /// When the write was started.
    pub created_at: i64,
    /// When the part was stored.
    pub stored_at: Option<i64>,
    /// The process that received the part; `None` if imported.
    pub written_by: Option<String>,
}

impl AdminDb {
    /// Returns the history of a file; `None` if the uid is unknown.
    #[boxed_future]
    pub async fn file_history(&self, uid: Uid) -> Result<Option<FileHistory>, MetaError> {
        let row =
            file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity).one(&self.db.reader).await?;
        let Some((file, blob)) = row else {
            return Ok(None);
        };
        let mut parts = Vec::new();
        if let Some(blob_id) = file.received_as.or(file.blob_id) {
            let rows = part::Entity::find()
                .filter(part::Column::BlobId.eq(blob_id))
                .order_by_asc(part::Column::Number)
                .order_by_asc(part::Column::Id);
            parts = rows.all(&self.db.reader).await?;
        }
        let received = file.received_from.zip(file.received_until).zip(file.received_nodes);
        Ok(Some(FileHistory {
            concatenation: Concatenation::of(&file),
            name: file.name,
            verdict: file.verdict,
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
                is_whole: blob.layout == blob::BlobLayout::Whole,
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

    /// Returns the tasks of a file, with their attempts, oldest task first: those that process the
    /// file, and those whose payload is one of `payloads`. Scans all tasks: use it for diagnosis only.
    #[boxed_future]
    pub async fn tasks_of_file(
        &self,
        uid: Uid,
        payloads: &[String],
    ) -> Result<Vec<(TaskRecord, Vec<Attempt>)>, MetaError> {
        let is_of_file = Condition::any()
            .add(task::Column::Payload.is_in(payloads))
            .add(processing::waiting::is_about(uid.get()));
        let tasks = task::Entity::find()
            .filter(is_of_file)
            .order_by_asc(task::Column::CreatedAt)
            .order_by_asc(task::Column::Id)
            .all(&self.db.reader)
            .await?;
        let mut histories = Vec::with_capacity(tasks.len());
        for row in tasks {
            histories.extend(list::find(&self.db, row.id).await?);
        }
        Ok(histories)
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
    /// The name used in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}

impl PartState {
    /// Whether bytes of the part are durable and needed.
    pub fn has_bytes(self) -> bool {
        matches!(self, Self::Partial | Self::Stored)
    }

    /// The name used in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}
