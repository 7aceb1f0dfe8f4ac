use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    nullable::{self, DistinctKeys},
    schema::{ClientPath, Digest, Md5, Metadata, MetadataPatch, Moment, Uid},
};

/// Maximum number of files or tasks per page.
pub const MAX_PAGE: u64 = 1000;

/// Default number of files or tasks per page.
pub const DEFAULT_PAGE: u64 = 100;

/// Maximum number of metadata entries of a file.
pub const MAX_METADATA_KEYS: usize = 64;

/// Maximum length of a metadata key in bytes.
pub const MAX_METADATA_KEY: usize = 128;

/// Maximum length of a metadata value in bytes.
pub const MAX_METADATA_VALUE: usize = 4096;

/// Maximum total size of the metadata keys and values of a file in bytes.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// The new file that a copy created. If the API key lacks the scope `read`, only the uid of the new
/// file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum CopiedFile {
    /// The new file.
    Known(Box<File>),
    /// Only the uid of the new file.
    Unread(FileUid),
}

/// The uid of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileUid {
    /// Uid of the file.
    #[schema(value_type = Uid)]
    pub uid: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct File {
    /// Uid of the file.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// Name of the file.
    #[schema(example = "film.mp4")]
    pub name: String,
    /// State of the file.
    pub state: FileState,
    /// Size in bytes. Before the content is complete: the announced size, if any. For a corrupt
    /// file: the total size of its parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes of the parts received so far. Absent when the content is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// MIME type; absent until the file is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "video/mp4")]
    pub content_type: Option<String>,
    /// `image`, `video`, `audio`, `doc`, `archive` or `unknown`, derived from the extension of the
    /// name.
    #[schema(example = "video")]
    pub category: String,
    /// When the file was created.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// When the content was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub stored_at: Option<String>,
    /// When the upload links expire. The upload itself is removed some time later. Absent when the
    /// content is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub expires_at: Option<String>,
    /// MD5 of the content, if osproxy computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Md5>)]
    pub md5: Option<String>,
    /// SHA-256 of the content, if osproxy computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub sha256: Option<String>,
    /// BLAKE3 of the content, if osproxy computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub blake3: Option<String>,
    /// How the bytes are stored; absent until the file is stored. Files of both layouts can be
    /// read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Metadata set by the application.
    #[schema(value_type = Metadata)]
    pub metadata: BTreeMap<String, String>,
    /// What processing has found out about the content, such as `width`, `height`, `duration_ms`.
    /// Absent if nothing is known. Steps of processing decide which members it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub media: Option<serde_json::Map<String, serde_json::Value>>,
    /// Id of the upload grant under which the file was created, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uid>)]
    pub upload_grant: Option<String>,
    /// The bucket in which the file is an object, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "photos")]
    pub bucket: Option<String>,
    /// The key of the file in its bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026/film.mp4")]
    pub key: Option<String>,
}

/// The state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// Waits for content.
    Pending,
    /// Some content has arrived.
    Receiving,
    /// All parts have arrived; the store is assembling them.
    Completing,
    /// Complete, and being processed. Becomes readable when processing accepts it.
    Processing,
    /// Can be read; its content never changes.
    Stored,
    /// Its content did not have the expected digests or type, and was removed.
    Corrupt,
    /// Processing did not accept it, and its content was removed.
    Rejected,
    /// Processing found its content dangerous. Nobody can read it.
    Quarantined,
    /// Its upload was not completed in time. Expired files are listed for a week.
    Expired,
    /// Was deleted. Deleted files are listed for a week.
    Deleted,
}

impl FileState {
    /// All states.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Receiving,
        Self::Completing,
        Self::Processing,
        Self::Stored,
        Self::Corrupt,
        Self::Rejected,
        Self::Quarantined,
        Self::Expired,
        Self::Deleted,
    ];

    /// The name used in JSON and in the query parameter `state`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Receiving => "receiving",
            Self::Completing => "completing",
            Self::Processing => "processing",
            Self::Stored => "stored",
            Self::Corrupt => "corrupt",
            Self::Rejected => "rejected",
            Self::Quarantined => "quarantined",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
        }
    }
}

/// How the bytes of a file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// In one object.
    Whole,
    /// In the parts in which they were sent.
    Parts,
}

/// A page of files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Files {
    /// The files of this page, in order.
    pub files: Vec<File>,
    /// Value of the parameter `cursor` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "3q2-7w")]
    pub next_cursor: Option<String>,
}

/// Body of `PATCH /files/{uid}`, a JSON merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateFileRequest {
    /// The new name. Absent: the name stays unchanged.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ClientPath, required = false)]
    pub name: Option<String>,
    /// Changes of the metadata. A key with the value `null` is removed. If `metadata` itself is
    /// `null`, all keys are removed.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MetadataPatch>, required = false)]
    pub metadata: Option<MetadataChanges>,
}

/// Changes of the metadata of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum MetadataChanges {
    /// `null`: removes all keys.
    RemoveAll,
    /// Sets the keys that have a value, and removes the keys whose value is `None`.
    Set(BTreeMap<String, Option<String>>),
}

impl<'de> Deserialize<'de> for MetadataChanges {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let changes = Option::<DistinctKeys<_>>::deserialize(input)?;
        Ok(changes.map_or(Self::RemoveAll, |DistinctKeys(changes)| Self::Set(changes)))
    }
}

/// Body of `POST /files/{uid}/copy`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyFileRequest {
    /// Name of the copy; defaults to the name of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClientPath>)]
    pub name: Option<String>,
    /// Metadata of the copy; defaults to the metadata of the file.
    #[serde(default, deserialize_with = "nullable::optional_map", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Metadata>)]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Deserializes a field that is present in a merge patch. `T` decides whether `null` is allowed.
/// Always returns `Some`: only an absent field is `None`.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Option<T>, D::Error> {
    T::deserialize(input).map(Some)
}
