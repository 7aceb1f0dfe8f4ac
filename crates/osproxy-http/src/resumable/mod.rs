//! Resumable uploads by the IETF draft draft-ietf-httpbis-resumable-upload, in the interop versions
//! that clients use. The draft shares its resources with tus: this module parses the headers of the
//! draft and renders its responses, for the handlers in `tus`. The headers of a request decide
//! which of the two protocols it uses.

mod content;
mod draft;
mod problem;
mod response;

pub(crate) use content::{ContentRequest, describe_content, upload_content};
pub(crate) use draft::{Draft, draft_of, is_upload_target};
pub(crate) use problem::{end_after_error, explain_error};
pub(crate) use response::{UploadLimits, describe_limits};

/// Entry points for the fuzz targets.
pub mod parsers {
    pub use super::draft::{boolean, integer};
    pub use crate::extract::disposition::file_name;
}
