use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    integer, nullable,
    schema::{ClientPath, Digest, Md5, Metadata, Moment, Network, Uid},
};

/// One item, or an array of up to 100 items. Describes bodies of both forms.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    /// One item.
    One(T),
    /// Several items.
    More(Vec<T>),
}

/// Body of `POST /uploads`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = v1::CreateUploadRequest)]
pub struct CreateUploadRequest {
    /// Name of the file, 1 to 1,024 bytes. If it is a path, its last component is used.
    #[schema(value_type = ClientPath)]
    pub name: String,
    /// Size of the content in bytes. With a size, the upload has a fixed part size, and the store
    /// reserves the space if it can.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 22_888_896)]
    pub size: Option<u64>,
    /// MIME type; by default it is detected from the content and the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "video/mp4",
        max_length = 255,
        pattern = "^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+ *(;[ -~]*)?$"
    )]
    pub content_type: Option<String>,
    /// Expected MD5 of the content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Md5>)]
    pub md5: Option<String>,
    /// Expected SHA-256 of the content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub sha256: Option<String>,
    /// Expected BLAKE3 of the content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub blake3: Option<String>,
    /// Size of each part except the last, in bytes: a power of two. Requires `size`; by default the
    /// server chooses.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 8_388_608, minimum = 65_536)]
    pub part_size: Option<u64>,
    /// Metadata: up to 64 keys of up to 128 bytes, with values of up to 4,096 bytes; 16 KiB in
    /// total.
    #[serde(default, deserialize_with = "nullable::map", skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Option<Metadata>, required = false)]
    pub metadata: BTreeMap<String, String>,
    /// Constraints of the upload links.
    #[serde(default, deserialize_with = "nullable::object", skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Constraints>,
    /// Lifetime of the upload links in seconds; defaults to one hour.
    #[serde(default = "an_hour", deserialize_with = "seconds")]
    #[schema(value_type = Option<i64>, required = false, example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expires_in: i64,
}

/// Constraints of upload links. The signature of a link covers the constraints.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    /// Maximum size of the content in bytes.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 1_073_741_824)]
    pub max_size: Option<u64>,
    /// Required MIME type, such as `image/png` or `image/*`. It is compared with the type that
    /// osproxy detects from the beginning of the content and from the file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "image/*",
        max_length = 127,
        pattern = "^[A-Za-z0-9!#$&^_.+-]+/([A-Za-z0-9!#$&^_.+-]+|\\*)$"
    )]
    pub content_type: Option<String>,
    /// Networks from which the links may be used, such as `10.0.0.0/8`. An empty list allows every
    /// network.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<Network>>, required = false, max_items = 16)]
    pub networks: Vec<String>,
}

pub(super) const fn an_hour() -> i64 {
    3600
}

/// Deserializes a lifetime in seconds; `null` means one hour.
pub(super) fn seconds<'de, D: Deserializer<'de>>(input: D) -> Result<i64, D::Error> {
    integer::optional(input).map(|seconds| seconds.unwrap_or(an_hour()))
}

/// Response to `POST /uploads`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedUpload {
    /// Uid of the new file.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// `pending` if the client must send the content; `stored` if content with the expected digests
    /// was already stored and the file is complete; `processing` if it is complete, but cannot be
    /// read before it has been processed.
    pub state: CreatedState,
    /// Size of each part except the last, in bytes, if `size` was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
    /// Links for sending the content; absent if the file is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<UploadLinks>,
    /// When the links expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub expires_at: Option<String>,
    /// Present if content with the expected digests is stored and the setting
    /// `uploads.require_possession_proof` is on. A client that solves the challenge need not send
    /// the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Challenge>,
}

/// Body of `POST /uploads/{uid}/links`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUploadLinksRequest {
    /// Lifetime of the links in seconds; defaults to one hour.
    #[serde(default = "an_hour", deserialize_with = "seconds")]
    #[schema(value_type = Option<i64>, required = false, example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expires_in: i64,
    /// Constraints of the links.
    #[serde(default, deserialize_with = "nullable::object", skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Constraints>,
}

/// New upload links of an upload session.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedUploadLinks {
    /// Uid of the file.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// Size of each part except the last, in bytes, if it is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
    /// Links for sending the content.
    pub links: UploadLinks,
    /// When the links expire.
    #[schema(value_type = Moment)]
    pub expires_at: String,
}

/// A challenge to prove possession of the content. The answer is a keyed BLAKE3 hash: the key is
/// `key`, and the input is the bytes of all `ranges`, concatenated in order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Challenge {
    /// BLAKE3 key: 32 bytes in hexadecimal.
    #[schema(value_type = Digest)]
    pub key: String,
    /// Byte ranges of the content. They may overlap.
    pub ranges: Vec<ByteRange>,
    /// Relative URL to which the client sends the answer by `POST`. Only one answer is accepted.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336/proof?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub link: String,
    /// When the challenge expires: one minute after it was created.
    #[schema(value_type = Moment)]
    pub expires_at: String,
}

/// A byte range of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Body of `POST /uploads/{uid}/proof`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProofRequest {
    /// Answer to the challenge, in hexadecimal.
    #[schema(value_type = Digest)]
    pub proof: String,
}

/// The state of a new upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CreatedState {
    /// The content must be sent.
    Pending,
    /// The file is complete, and is being processed before it can be read; no content need be sent.
    Processing,
    /// The file is complete; no content need be sent.
    Stored,
}

/// Relative URLs for sending the content of one file. Anyone who has a URL can use it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = v1::UploadLinks)]
pub struct UploadLinks {
    /// `PUT` the whole content.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336/content?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub content: String,
    /// `PUT` one part; replace `{number}` with the part number, starting at 1.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336/parts/{number}?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub part: String,
    /// `GET` the state of the upload; `DELETE` aborts it.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub state: String,
    /// `POST` completes the upload when all parts have been sent.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336/complete?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub complete: String,
    /// URL of the upload for clients of the tus protocol (`uploadUrl` of tus-js-client).
    #[schema(
        example = "/tus/1548722401845518336?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    #[serde(default)]
    pub tus: String,
}

/// Body of `POST /uploads/{uid}/complete`. The body may be empty. Every field that is present is
/// checked.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteUploadRequest {
    /// Expected number of parts.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 3, minimum = 1, maximum = 10_000)]
    pub parts: Option<u32>,
    /// Expected total size of all parts in bytes.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Expected MD5 of the whole content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Md5>)]
    pub md5: Option<String>,
    /// Expected SHA-256 of the whole content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub sha256: Option<String>,
    /// Expected BLAKE3 of the whole content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub blake3: Option<String>,
}

/// The state of an upload session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadStatus {
    /// Uid of the file.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// State of the upload.
    pub state: UploadState,
    /// Size of the content in bytes. Until the content is stored: the announced size, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Size of each part except the last, in bytes, if it is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
    /// Numbers of the received parts, in ascending order.
    pub parts: Vec<u32>,
    /// Total size of the received parts in bytes.
    pub received: u64,
}

/// The state of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// No content has arrived.
    Pending,
    /// Some content has arrived.
    Receiving,
    /// All parts have arrived; the store is assembling them.
    Completing,
    /// The content is complete, and is being processed before it can be read.
    Processing,
    /// The content is stored.
    Stored,
}
