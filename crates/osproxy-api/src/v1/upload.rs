use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    nullable,
    schema::{ClientPath, Digest, Md5, Metadata, Moment, Network, Uid},
    whole,
};

/// Body of `POST /uploads`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = v1::CreateUploadRequest)]
pub struct CreateUploadRequest {
    /// What the file is called: 1 to 1,024 bytes. Of a path the last component counts.
    #[schema(value_type = ClientPath)]
    pub name: String,
    /// Bytes of the content. With it the upload gets a part size, and room is kept for it where the store can do that.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 22_888_896)]
    pub size: Option<u64>,
    /// MIME type; otherwise it is found out from the content and the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "video/mp4",
        max_length = 255,
        pattern = "^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+ *(;[ -~]*)?$"
    )]
    pub content_type: Option<String>,
    /// MD5 of the content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Md5>)]
    pub md5: Option<String>,
    /// SHA-256 of the content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub sha256: Option<String>,
    /// BLAKE3 of the content, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub blake3: Option<String>,
    /// Bytes of each part but the last: a power of two. Goes with `size`; otherwise the server chooses.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 8_388_608, minimum = 65_536)]
    pub part_size: Option<u64>,
    /// What its owner notes of it: up to 64 keys of up to 128 bytes, values of up to 4,096 bytes, 16 KiB in all.
    #[serde(default, deserialize_with = "nullable::map", skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Option<Metadata>, required = false)]
    pub metadata: BTreeMap<String, String>,
    /// What the links take.
    #[serde(default, deserialize_with = "nullable::object", skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Constraints>,
    /// How long the links hold, in seconds; an hour if it is absent.
    #[serde(default = "an_hour", deserialize_with = "seconds")]
    #[schema(value_type = Option<i64>, required = false, example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expires_in: i64,
}

/// What upload links take, signed with them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    /// Bytes of the content at most.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 1_073_741_824)]
    pub max_size: Option<u64>,
    /// MIME type that the content must be of, as its beginning or else its name tells: `image/png`, or `image/*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "image/*",
        max_length = 127,
        pattern = "^[A-Za-z0-9!#$&^_.+-]+/([A-Za-z0-9!#$&^_.+-]+|\\*)$"
    )]
    pub content_type: Option<String>,
    /// Networks that the links may be used from, such as `10.0.0.0/8`; any, if there are none.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<Network>>, required = false, max_items = 16)]
    pub networks: Vec<String>,
}

const fn an_hour() -> i64 {
    3600
}

/// How long something holds: an hour if it is `null`.
fn seconds<'de, D: Deserializer<'de>>(input: D) -> Result<i64, D::Error> {
    whole::optional(input).map(|seconds| seconds.unwrap_or(an_hour()))
}

/// Answer to `POST /uploads`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedUpload {
    /// The new file's uid.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// `pending`: the content is to be sent. `stored`: content with the digests was there, and the file has it.
    pub state: CreatedState,
    /// Bytes of each part but the last, if the size was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
    /// Where to send the content, as long as it is to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<UploadLinks>,
    /// From when on the links no longer hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub expires_at: Option<String>,
    /// The service has content with the digests: whoever answers this need not send it. Only with
    /// `uploads.prove_possession`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Challenge>,
}

/// Body of `POST /uploads/{uid}/links`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUploadLinksRequest {
    /// How long the links hold, in seconds; an hour if it is absent.
    #[serde(default = "an_hour", deserialize_with = "seconds")]
    #[schema(value_type = Option<i64>, required = false, example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expires_in: i64,
    /// What the links take.
    #[serde(default, deserialize_with = "nullable::object", skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Constraints>,
}

/// New links of an upload.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedUploadLinks {
    /// The file's uid.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// Bytes of each part but the last, if that is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
    /// Where to send the content.
    pub links: UploadLinks,
    /// From when on the links no longer hold.
    #[schema(value_type = Moment)]
    pub expires_at: String,
}

/// A question that only who has the content can answer: what is the BLAKE3, keyed with `key`, of the bytes in `ranges`, one
/// after the other?
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Challenge {
    /// 32 bytes, in hexadecimal.
    #[schema(value_type = Digest)]
    pub key: String,
    /// Where the bytes lie in the content. They may overlap.
    pub ranges: Vec<ByteRange>,
    /// `POST`: the answer, once. Relative.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336/proof?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub link: String,
    /// From when on it can no longer be answered: a minute later.
    #[schema(value_type = Moment)]
    pub expires_at: String,
}

/// Bytes of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ByteRange {
    /// How many bytes are before them.
    pub offset: u64,
    /// How many there are.
    pub length: u64,
}

/// Body of `POST /uploads/{uid}/proof`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProofRequest {
    /// The answer to the challenge, in hexadecimal.
    #[schema(value_type = Digest)]
    pub proof: String,
}

/// Where a new upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CreatedState {
    /// The content is to be sent.
    Pending,
    /// The file has its content.
    Stored,
}

/// Relative URLs that take the content of one file, for whoever has them.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = v1::UploadLinks)]
pub struct UploadLinks {
    /// `PUT`: the whole content.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336/content?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub content: String,
    /// `PUT`: a part, with its number, from 1 on, in the place of `{number}`.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336/parts/{number}?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub part: String,
    /// `GET`: what has been received. `DELETE`: give the upload up.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub state: String,
    /// `POST`: all parts have been sent.
    #[schema(
        example = "/api/v1/uploads/1548722401845518336/complete?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub complete: String,
}

/// Body of `POST /uploads/{uid}/complete`, which may be empty. What is said must be so.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteUploadRequest {
    /// How many parts there are.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 3, minimum = 1, maximum = 10_000)]
    pub parts: Option<u32>,
    /// Bytes of all parts together.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// MD5 of all parts together, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Md5>)]
    pub md5: Option<String>,
    /// SHA-256 of all parts together, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub sha256: Option<String>,
    /// BLAKE3 of all parts together, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Digest>)]
    pub blake3: Option<String>,
}

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadStatus {
    /// The file's uid.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// Where the file stands.
    pub state: UploadState,
    /// Bytes of the content, as they were announced, or as they are once it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes of each part but the last, if that is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
    /// The numbers of the parts that were received, ascending.
    pub parts: Vec<u32>,
    /// Bytes of these parts together.
    pub received: u64,
}

/// Where the file of an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// Nothing has come.
    Pending,
    /// Content is coming.
    Receiving,
    /// The store puts the parts together.
    Completing,
    /// Complete.
    Stored,
}
