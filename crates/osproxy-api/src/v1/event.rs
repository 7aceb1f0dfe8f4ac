use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::{Digest, Md5, Metadata, Moment, Uid};

/// Maximum number of events per page. An event has up to 20 kB.
pub const MAX_EVENTS: u64 = 200;

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Id of the event, a decimal number. The ids of later events are higher.
    #[schema(example = "4711", pattern = "^[1-9][0-9]*$")]
    pub id: String,
    /// Type of the event.
    #[serde(rename = "type")]
    #[schema(example = "file.completed")]
    pub kind: String,
    /// When it happened.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// What happened.
    pub data: EventData,
}

/// What happened: a file as it was right after the change, or the facts of another event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventData {
    /// The tenant.
    #[schema(example = "default")]
    pub tenant: String,
    /// Uid of the file, in events about a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uid>)]
    pub uid: Option<String>,
    /// The interface that caused the event: `v0`, `v1`, `tus`, `grpc`, `s3`, or `service` for
    /// background work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "v1")]
    pub source: Option<String>,
    /// Name of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "film.mp4")]
    pub name: Option<String>,
    /// Name of the file before it was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_name: Option<String>,
    /// Category of the name: `image`, `video`, `audio`, `doc`, `archive` or `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "video")]
    pub category: Option<String>,
    /// Size in bytes, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// MIME type, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "video/mp4")]
    pub content_type: Option<String>,
    /// MD5 of the content, if osproxy has computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Md5>)]
    pub md5: Option<String>,
    /// SHA-256 of the content, if osproxy has computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub sha256: Option<String>,
    /// BLAKE3 of the content, if osproxy has computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub blake3: Option<String>,
    /// When the file was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub created_at: Option<String>,
    /// When the content was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub stored_at: Option<String>,
    /// Id of the upload grant under which the file was created, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uid>)]
    pub upload_grant: Option<String>,
    /// The bucket in which the file is an object, or will be one when it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "photos")]
    pub bucket: Option<String>,
    /// The key of the file in its bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026/film.mp4")]
    pub key: Option<String>,
    /// Metadata of the file. Absent in the rare case that the event would exceed 20 kB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Metadata>)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Why a file was refused, or which background task has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The types of events, for the parameter `types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum EventType {
    /// An upload was created, or a file with content that was stored already.
    #[serde(rename = "file.created")]
    FileCreated,
    /// The content of a file is complete and can be read.
    #[serde(rename = "file.completed")]
    FileCompleted,
    /// The steps that process a file have ended.
    #[serde(rename = "file.processed")]
    FileProcessed,
    /// A processing step has refused a file.
    #[serde(rename = "file.rejected")]
    FileRejected,
    /// The content does not have the expected digests or type, and was removed.
    #[serde(rename = "file.corrupt")]
    FileCorrupt,
    /// The name of a file changed.
    #[serde(rename = "file.renamed")]
    FileRenamed,
    /// A file was deleted, or an upload was aborted.
    #[serde(rename = "file.deleted")]
    FileDeleted,
    /// A file was deleted by a lifecycle rule of its bucket.
    #[serde(rename = "file.expired")]
    FileExpired,
    /// An upload was not completed in time.
    #[serde(rename = "upload.expired")]
    UploadExpired,
    /// A background task about the content of the file has used up its attempts.
    #[serde(rename = "task.dead")]
    TaskDead,
    /// A request was refused because of the quota; at most one event an hour from each node.
    #[serde(rename = "quota.exceeded")]
    QuotaExceeded,
}

/// A page of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// Value of the parameter `after` for the next page. Keep it to continue later.
    #[schema(example = "4711", pattern = "^(0|[1-9][0-9]*)$")]
    pub next: String,
    /// Whether there are more events now. A page can be empty although there are.
    pub has_more: bool,
}
