//! API v0, as the Go program's clients know it: field names, numbers as strings and all.

use serde::{Deserialize, Serialize};

/// Where every route of this version begins.
pub const PREFIX: &str = "/api/storage/v0";

/// Most paths in one `POST /link/upload`, and most digests in one `POST /resume`.
pub const MAX_UPLOADS: usize = 50;

/// Most uids in one `POST /link/download`.
pub const MAX_DOWNLOADS: usize = 200;

/// What every JSON answer is wrapped in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// 0, or the HTTP status of the error.
    pub code: u16,
    /// `ok`, or one English sentence.
    pub message: String,
    /// The answer itself; `""` with an error.
    pub data: T,
}

impl<T> Envelope<T> {
    /// Wraps the answer of a request that succeeded.
    pub fn ok(data: T) -> Self {
        Self { code: 0, message: "ok".to_owned(), data }
    }
}

/// Body of `POST /link/upload`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateUploadRequest {
    /// 1 to [`MAX_UPLOADS`] paths on the client; the last component becomes the file's name.
    pub file_path: Vec<String>,
    /// How long the links hold, in seconds.
    pub expire: i64,
}

/// One entry of the answer to `POST /link/upload`.
#[derive(Debug, Serialize, Deserialize)]
pub struct UploadLinks {
    /// The new file's uid.
    pub uid: String,
    /// The path as the request gave it.
    pub path: String,
    /// Where to send the bytes.
    pub url: UploadUrls,
}

/// Relative URLs that take the bytes of one file.
#[derive(Debug, Serialize, Deserialize)]
pub struct UploadUrls {
    /// The whole file in one request.
    pub single: String,
    /// The file in parts.
    pub multi: MultiUploadUrls,
}

/// Relative URLs for a file that comes in parts.
#[derive(Debug, Serialize, Deserialize)]
pub struct MultiUploadUrls {
    /// Takes one part.
    pub upload: String,
    /// Completes the file.
    pub merge: String,
}

/// Body of `POST /link/download`.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreateDownloadLinkRequest {
    /// 1 to [`MAX_DOWNLOADS`] uids.
    pub uid: Vec<String>,
    /// How long the links hold, in seconds.
    pub expire: i64,
}

/// One entry of the answer to `POST /link/download`.
#[derive(Debug, Serialize, Deserialize)]
pub struct DownloadLink {
    /// The file's uid.
    pub uid: String,
    /// Relative URL of the bytes.
    pub url: String,
    /// What is known about the file.
    pub meta: FileMeta,
}

/// What `POST /link/download` tells about a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileMeta {
    /// The name that the client uploaded it under.
    pub src_name: String,
    /// `<uid>.<extension>`.
    pub dst_name: String,
    /// Pixels; 0 when unknown.
    pub height: u32,
    /// Pixels; 0 when unknown.
    pub width: u32,
    /// Lower-case hexadecimal.
    pub md5: String,
    /// Bytes, as a decimal string.
    pub size: String,
}

/// Body of `POST /resume`.
#[derive(Debug, Serialize, Deserialize)]
pub struct InstantUploadRequest {
    /// 1 to [`MAX_UPLOADS`] digests with the paths their files have on the client.
    pub data: Vec<InstantUploadItem>,
}

/// One file that the client would like not to send.
#[derive(Debug, Serialize, Deserialize)]
pub struct InstantUploadItem {
    /// Hexadecimal md5 of the whole content.
    pub md5: String,
    /// Path on the client; the last component becomes the new file's name.
    pub path: String,
}

/// One entry of the answer to `POST /resume`.
#[derive(Debug, Serialize, Deserialize)]
pub struct InstantUploadResult {
    /// The md5 as the request gave it.
    pub md5: String,
    /// The new file's uid; empty when the content has to be sent.
    pub uid: String,
}
