//! API v0, as the Go program's clients know it: field names, numbers as strings and all.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    schema::{ClientPath, Md5, Uid},
    whole,
};

/// Where every route of this version begins.
pub const PREFIX: &str = "/api/storage/v0";

/// Most paths in one `POST /link/upload`, and most digests in one `POST /resume`.
pub const MAX_UPLOADS: usize = 50;

/// Most uids in one `POST /link/download`.
pub const MAX_DOWNLOADS: usize = 200;

/// What every JSON answer is wrapped in.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Envelope<T> {
    /// 0, or the HTTP status of the error.
    #[schema(example = 0)]
    pub code: u16,
    /// `ok`, or one English sentence.
    #[schema(example = "ok")]
    pub message: String,
    /// The answer itself; `""` with an error.
    pub data: T,
}

/// The same where the request was not served: every error is told like this.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// The HTTP status.
    #[schema(example = 422, minimum = 400, maximum = 599)]
    pub code: u16,
    /// One English sentence, for people. Programs read the header `osproxy-error`.
    #[schema(example = "the link has expired", min_length = 1)]
    pub message: String,
    /// Always `""`.
    #[schema(example = "", max_length = 0)]
    pub data: String,
}

impl<T> Envelope<T> {
    /// Wraps the answer of a request that succeeded.
    pub fn ok(data: T) -> Self {
        Self { code: 0, message: "ok".to_owned(), data }
    }
}

/// Body of `POST /link/upload`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateUploadRequest {
    /// 1 to 50 paths on the client; the last component becomes the file's name, of at most 1,024 bytes without NUL.
    /// A path that stands there twice counts once.
    #[schema(value_type = Vec<ClientPath>, min_items = 1, max_items = 50)]
    pub file_path: Vec<String>,
    /// How long the links hold, in seconds; `links.max_expire` says how long at most.
    #[serde(deserialize_with = "whole::deserialize")]
    #[schema(example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expire: i64,
}

/// One entry of the answer to `POST /link/upload`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadLinks {
    /// The new file's uid.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// The path as the request gave it.
    #[schema(example = "holiday/film.mp4")]
    pub path: String,
    /// Where to send the bytes.
    pub url: UploadUrls,
}

/// Relative URLs that take the bytes of one file.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadUrls {
    /// The whole file in one request.
    #[schema(
        example = "/api/storage/v0/upload?uid=1548722401845518336&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub single: String,
    /// The file in parts.
    pub multi: MultiUploadUrls,
}

/// Relative URLs for a file that comes in parts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MultiUploadUrls {
    /// Takes one part.
    #[schema(
        example = "/api/storage/v0/upload/multi?uid=1548722401845518336&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub upload: String,
    /// Completes the file.
    #[schema(
        example = "/api/storage/v0/upload/merge?uid=1548722401845518336&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub merge: String,
}

/// Body of `POST /link/download`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CreateDownloadLinkRequest {
    /// 1 to 200 uids. Those that are unknown or not complete are left out of the answer.
    #[schema(value_type = Vec<Uid>, min_items = 1, max_items = 200)]
    pub uid: Vec<String>,
    /// How long the links hold, in seconds; `links.max_expire` says how long at most.
    #[serde(deserialize_with = "whole::deserialize")]
    #[schema(example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expire: i64,
}

/// One entry of the answer to `POST /link/download`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DownloadLink {
    /// The file's uid.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// Relative URL of the bytes.
    #[schema(
        example = "/api/storage/v0/download?uid=1548722401845518336&name=film.mp4&bucket=video&object=1548722401845518336.mp4&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub url: String,
    /// What is known about the file.
    pub meta: FileMeta,
}

/// What `POST /link/download` tells about a file.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileMeta {
    /// The name that the client uploaded it under.
    #[schema(example = "film.mp4")]
    pub src_name: String,
    /// `<uid>.<extension>`.
    #[schema(example = "1548722401845518336.mp4")]
    pub dst_name: String,
    /// Pixels; 0 when unknown.
    #[schema(example = 0)]
    pub height: u32,
    /// Pixels; 0 when unknown.
    #[schema(example = 0)]
    pub width: u32,
    /// Lower-case hexadecimal; empty when it is not known.
    #[schema(example = "900150983cd24fb0d6963f7d28e17f72", pattern = "^([0-9a-f]{32})?$")]
    pub md5: String,
    /// Bytes, as a decimal string.
    #[schema(example = "41943040", pattern = "^[0-9]+$")]
    pub size: String,
}

/// Body of `POST /resume`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstantUploadRequest {
    /// 1 to 50 digests with the paths their files have on the client.
    #[schema(min_items = 1, max_items = 50)]
    pub data: Vec<InstantUploadItem>,
}

/// One file that the client would like not to send.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstantUploadItem {
    /// Hexadecimal md5 of the whole content.
    #[schema(value_type = Md5)]
    pub md5: String,
    /// Path on the client; the last component becomes the new file's name.
    #[schema(value_type = ClientPath)]
    pub path: String,
}

/// One entry of the answer to `POST /resume`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstantUploadResult {
    /// The md5 as the request gave it.
    #[schema(example = "900150983cd24fb0d6963f7d28e17f72")]
    pub md5: String,
    /// The new file's uid; empty when the content has to be sent.
    #[schema(example = "1548722401845518336", pattern = "^([1-9][0-9]{0,18})?$")]
    pub uid: String,
}
