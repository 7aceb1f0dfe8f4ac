//! The resumable upload protocol tus 1.0 at `/tus`: its headers and values.

/// Path prefix.
pub const PREFIX: &str = "/tus";

/// The version of the protocol.
pub const VERSION: &str = "1.0.0";

/// Media type of the bodies of PATCH, and of POST with content.
pub const CONTENT_TYPE: &str = "application/offset+octet-stream";

/// The version that a request or response uses.
pub const RESUMABLE: &str = "tus-resumable";
/// The versions that the server supports.
pub const VERSIONS: &str = "tus-version";
/// The extensions that the server supports.
pub const EXTENSIONS: &str = "tus-extension";
/// The digests with which the server can check a body.
pub const CHECKSUMS: &str = "tus-checksum-algorithm";
/// Maximum size of an upload, in bytes.
pub const MAX_SIZE: &str = "tus-max-size";
/// Durable bytes from the start of the content; in a request, where the body continues.
pub const OFFSET: &str = "upload-offset";
/// Size of the content, in bytes.
pub const LENGTH: &str = "upload-length";
/// `1` if the size of the content is announced later.
pub const DEFER_LENGTH: &str = "upload-defer-length";
/// Pairs of a key and a Base64 value.
pub const METADATA: &str = "upload-metadata";
/// Algorithm and Base64 digest of the body.
pub const CHECKSUM: &str = "upload-checksum";
/// When the upload expires.
pub const EXPIRES: &str = "upload-expires";
/// Role of the upload in a concatenation: `partial`, or `final;` and the URLs of its partial
/// uploads.
pub const CONCAT: &str = "upload-concat";
/// Uid of the file.
pub const UID: &str = "osproxy-uid";
/// The method that a POST stands for.
pub const METHOD_OVERRIDE: &str = "x-http-method-override";
