//! JSON of API v0, compatible with the Go program. The field names are those of the Go program, and
//! some numbers are strings.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    integer,
    schema::{ClientPath, Md5, Uid},
};

/// Path prefix of all routes of this version.
pub const PREFIX: &str = "/api/storage/v0";

/// Maximum number of paths in one `POST /link/upload`, and of digests in one `POST /resume`.
pub const MAX_UPLOADS: usize = 50;

/// Maximum number of uids in one `POST /link/download`.
pub const MAX_DOWNLOADS: usize = 200;

/// The envelope of every JSON response.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Envelope<T> {
    /// 0 on success, otherwise the HTTP status.
    #[schema(example = 0)]
    pub code: u16,
    /// `ok`, or an error message in English.
    #[schema(example = "ok")]
    pub message: String,
    /// The result; `""` on error.
    pub data: T,
}

/// The envelope of every error response.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// The HTTP status.
    #[schema(example = 422, minimum = 400, maximum = 599)]
    pub code: u16,
    /// Error message in English, for people. Programs use the header `osproxy-error`.
    #[schema(example = "the link has expired", min_length = 1)]
    pub message: String,
    /// Always `""`.
    #[schema(example = "", max_length = 0)]
    pub data: String,
}

impl<T> Envelope<T> {
    /// Wraps the result of a successful request.
    pub fn ok(data: T) -> Self {
        Self { code: 0, message: "ok".to_owned(), data }
    }
}

/// Body of `POST /link/upload`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateUploadRequest {
    /// 1 to 50 paths on the client. The last component of a path becomes the file name; it has at
    /// most 1,024 bytes and no NUL. A duplicate path counts once.
    #[schema(value_type = Vec<ClientPath>, min_items = 1, max_items = 50)]
    pub file_path: Vec<String>,
    /// Lifetime of the links in seconds; the maximum is the setting `links.max_lifetime`.
    #[serde(deserialize_with = "integer::deserialize")]
    #[schema(example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expire: i64,
}

/// One entry of the response to `POST /link/upload`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadLinks {
    /// Uid of the new file.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// The path from the request.
    #[schema(example = "holiday/film.mp4")]
    pub path: String,
    /// URLs for sending the content.
    pub url: UploadUrls,
}

/// Relative URLs for uploading one file.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadUrls {
    /// Uploads the whole file in one request.
    #[schema(
        example = "/api/storage/v0/upload?uid=1548722401845518336&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub single: String,
    /// Uploads the file in parts.
    pub multi: MultiUploadUrls,
}

/// Relative URLs for uploading a file in parts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MultiUploadUrls {
    /// Uploads one part.
    #[schema(
        example = "/api/storage/v0/upload/multi?uid=1548722401845518336&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub upload: String,
    /// Completes the upload.
    #[schema(
        example = "/api/storage/v0/upload/merge?uid=1548722401845518336&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub merge: String,
}

/// Body of `POST /link/download`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CreateDownloadLinkRequest {
    /// 1 to 200 uids. Unknown and incomplete files are omitted from the response.
    #[schema(value_type = Vec<Uid>, min_items = 1, max_items = 200)]
    pub uid: Vec<String>,
    /// Lifetime of the links in seconds; the maximum is the setting `links.max_lifetime`.
    #[serde(deserialize_with = "integer::deserialize")]
    #[schema(example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expire: i64,
}

/// One entry of the response to `POST /link/download`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DownloadLink {
    /// Uid of the file.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// Relative download URL.
    #[schema(
        example = "/api/storage/v0/download?uid=1548722401845518336&name=film.mp4&bucket=video&object=1548722401845518336.mp4&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub url: String,
    /// Metadata of the file.
    pub meta: FileMeta,
}

/// Metadata of a file in the response to `POST /link/download`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileMeta {
    /// File name from the upload.
    #[schema(example = "film.mp4")]
    pub src_name: String,
    /// `<uid>.<extension>`.
    #[schema(example = "1548722401845518336.mp4")]
    pub dst_name: String,
    /// Height in pixels; 0 if unknown.
    #[schema(example = 0)]
    pub height: u32,
    /// Width in pixels; 0 if unknown.
    #[schema(example = 0)]
    pub width: u32,
    /// MD5 in lower-case hexadecimal; empty if unknown.
    #[schema(example = "900150983cd24fb0d6963f7d28e17f72", pattern = "^([0-9a-f]{32})?$")]
    pub md5: String,
    /// Size in bytes, as a decimal string.
    #[schema(example = "41943040", pattern = "^[0-9]+$")]
    pub size: String,
}

/// Body of `POST /resume`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstantUploadRequest {
    /// 1 to 50 digests, each with the path of its file on the client.
    #[schema(min_items = 1, max_items = 50)]
    pub data: Vec<InstantUploadItem>,
}

/// A file whose content may already be stored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstantUploadItem {
    /// MD5 of the whole content, in hexadecimal.
    #[schema(value_type = Md5)]
    pub md5: String,
    /// Path on the client; the last component becomes the name of the new file.
    #[schema(value_type = ClientPath)]
    pub path: String,
}

/// One entry of the response to `POST /resume`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstantUploadResult {
    /// The MD5 from the request.
    #[schema(example = "900150983cd24fb0d6963f7d28e17f72")]
    pub md5: String,
    /// Uid of the new file; empty if the content must be sent.
    #[schema(example = "1548722401845518336", pattern = "^([1-9][0-9]{0,17}|[1-8][0-9]{18})?$")]
    pub uid: String,
}
