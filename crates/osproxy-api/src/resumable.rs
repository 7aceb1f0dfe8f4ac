//! Resumable uploads by the IETF draft draft-ietf-httpbis-resumable-upload: its headers and values.

/// The interop versions of the draft that are supported, in ascending order. Several revisions of
/// the draft may have the same interop version.
pub const INTEROP_VERSIONS: std::ops::RangeInclusive<u8> = 3..=8;

/// The interop version of a request or response.
pub const INTEROP_VERSION: &str = "upload-draft-interop-version";
/// Whether the content ends with the body of the request, or is complete. A boolean.
pub const COMPLETE: &str = "upload-complete";
/// The opposite of [`COMPLETE`], in interop version 3.
pub const INCOMPLETE: &str = "upload-incomplete";
/// The limits of an upload.
pub const LIMIT: &str = "upload-limit";

/// Status of the interim response with the URL of an upload.
pub const STATUS: u16 = 104;
/// Reason phrase of [`STATUS`].
pub const REASON: &str = "Upload Resumption Supported";

/// Media type of the bodies of PATCH, since interop version 6.
pub const CONTENT_TYPE: &str = "application/partial-upload";

/// Problem type: the offset of the request is not the offset of the upload.
pub const MISMATCHING_OFFSET: &str =
    "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
/// Problem type: the upload is complete and takes no more bytes.
pub const COMPLETED_UPLOAD: &str = "https://iana.org/assignments/http-problem-types#completed-upload";
/// Problem type: the request contradicts the known size of the content.
pub const INCONSISTENT_LENGTH: &str =
    "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";
/// Member of [`MISMATCHING_OFFSET`]: the offset of the upload.
pub const EXPECTED_OFFSET: &str = "expected-offset";
/// Member of [`MISMATCHING_OFFSET`]: the offset of the request.
pub const PROVIDED_OFFSET: &str = "provided-offset";
