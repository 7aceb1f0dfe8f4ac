use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    nullable::{self, DistinctKeys},
    schema::{ClientPath, Digest, Md5, Metadata, MetadataPatch, Moment, Uid},
};

/// Most files, or tasks, on a page.
pub const MAX_PAGE: u64 = 1000;

/// How many there are on a page if nothing is said.
pub const DEFAULT_PAGE: u64 = 100;

/// Most entries in the metadata of a file.
pub const MAX_METADATA_KEYS: usize = 64;

/// Longest key in the metadata of a file, in bytes.
pub const MAX_METADATA_KEY: usize = 128;

/// Longest value in the metadata of a file, in bytes.
pub const MAX_METADATA_VALUE: usize = 4096;

/// Most bytes that keys and values of the metadata of a file have together.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// A file that was copied: what is known of it, or its uid alone for keys without the scope `read`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum CopiedFile {
    /// What is known of it.
    Known(Box<File>),
    /// Its uid alone.
    Unread(FileUid),
}

/// The uid of a file, and nothing else of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileUid {
    /// The file's uid.
    #[schema(value_type = Uid)]
    pub uid: String,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct File {
    /// The file's uid.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// What its owner calls it.
    #[schema(example = "film.mp4")]
    pub name: String,
    /// Where it stands.
    pub state: FileState,
    /// Bytes: of the content, or, as long as it is not complete, as they were announced. Of a corrupt file, as they were sent
    /// in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes of the parts that were received, as long as the content is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// MIME type, once it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "video/mp4")]
    pub content_type: Option<String>,
    /// `image`, `video`, `audio`, `doc`, `archive` or `unknown`, by the extension of the name.
    #[schema(example = "video")]
    pub category: String,
    /// When it was made.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// When its content was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub stored_at: Option<String>,
    /// When the links that its content is sent by end, as long as it is not complete. Its upload is given up some time
    /// after.
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
    /// Where its bytes lie, once it is stored. Both can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// What its owner notes of it.
    #[schema(value_type = Metadata)]
    pub metadata: BTreeMap<String, String>,
}

/// Where a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// Its content may be sent.
    Pending,
    /// Its content has begun to arrive.
    Receiving,
    /// All of its content is there, and is being put together.
    Completing,
    /// It can be read, and its content never changes.
    Stored,
    /// Its content is not what was announced, and was removed.
    Corrupt,
    /// Its upload was not completed in time. Such files are known for a week.
    Expired,
    /// It was deleted. Such files are known for a week.
    Deleted,
}

impl FileState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Receiving,
        Self::Completing,
        Self::Stored,
        Self::Corrupt,
        Self::Expired,
        Self::Deleted,
    ];

    /// The name, as it stands in JSON and in the parameter `state`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Receiving => "receiving",
            Self::Completing => "completing",
            Self::Stored => "stored",
            Self::Corrupt => "corrupt",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
        }
    }
}

/// Where the bytes of a file lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// In one object.
    Whole,
    /// In the parts that it was sent in.
    Parts,
}

/// A page of files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Files {
    /// The files, in their order.
    pub files: Vec<File>,
    /// The parameter `cursor` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "3q2-7w")]
    pub next_cursor: Option<String>,
}

/// Body of `PATCH /files/{uid}`, a merge patch of RFC 7396.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateFileRequest {
    /// The new name, if it changes.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ClientPath, required = false)]
    pub name: Option<String>,
    /// What changes of the metadata: `null` removes a key, or all of them.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MetadataPatch>, required = false)]
    pub metadata: Option<MetadataChanges>,
}

/// What changes of the metadata of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum MetadataChanges {
    /// `null`: all of it is removed.
    RemoveAll,
    /// These keys are set, or removed if there is no value.
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
    /// The name of the copy; that of the file if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClientPath>)]
    pub name: Option<String>,
    /// The metadata of the copy; that of the file if it is absent.
    #[serde(default, deserialize_with = "nullable::optional_map", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Metadata>)]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// What may be absent. `null` is not the same: in a merge patch it asks for removal.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Option<T>, D::Error> {
    T::deserialize(input).map(Some)
}
