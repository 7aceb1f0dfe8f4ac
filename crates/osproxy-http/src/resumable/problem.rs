//! Errors, with the problem types of the draft.

use std::sync::Arc;

use axum::{http::StatusCode, response::Response};
use osproxy_api::{
    ErrorCode,
    resumable::{
        COMPLETED_UPLOAD, EXPECTED_OFFSET, INCONSISTENT_LENGTH, LIMIT, MISMATCHING_OFFSET, PROVIDED_OFFSET,
    },
};
use osproxy_core::{
    Error,
    ops::{UploadOps, abort_upload::abort_upload, append_upload::AppendSpec, upload_file::SizeHint},
};
use osproxy_types::{error_chain, uid::Uid};

use super::{draft::Draft, response::format_max_size};
use crate::{respond::error::ErrorContext, tus::insert, v1::problem};

/// Member with the maximum size of an upload.
const MAX_SIZE: &str = "max_size";

impl Draft {
    /// The status of an error. Clients resume an upload only after 5xx.
    pub(crate) fn status(self, error: &Error) -> StatusCode {
        let status = match error.code {
            ErrorCode::IncompleteBody => StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            // 409 is for wrong offsets.
            ErrorCode::Superseded | ErrorCode::AlreadyStored | ErrorCode::SizeMismatch => {
                StatusCode::BAD_REQUEST.as_u16()
            }
            ErrorCode::FileGone if self.prescribes_statuses() => StatusCode::NOT_FOUND.as_u16(),
            code => code.v1_status(),
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Renders an error as a problem document.
    pub(crate) fn render_error(self, status: StatusCode, failure: &ErrorContext<'_>) -> Response {
        let mut document = problem::document(status, failure);
        let kind = match failure.error.code {
            ErrorCode::OffsetMismatch => Some(MISMATCHING_OFFSET),
            ErrorCode::AlreadyStored => Some(COMPLETED_UPLOAD),
            ErrorCode::SizeMismatch => Some(INCONSISTENT_LENGTH),
            _ => None,
        };
        if let Some(kind) = kind {
            kind.clone_into(&mut document.kind);
        }
        let mut response = problem::render_document(status, &document);
        if !self.prescribes_statuses() {
            // The response is about this request, not about the complete content.
            self.insert_completeness(response.headers_mut(), false);
        }
        let max_size = failure.error.members().find(|(name, _)| *name == MAX_SIZE);
        if let Some(max_size) = max_size.and_then(|(_, value)| value.as_u64()) {
            insert(response.headers_mut(), LIMIT, &format_max_size(max_size));
        }
        response
    }
}

/// Adds what the problem types of the draft require to the error of a creation or an append.
/// `offset` is that of the request, `max_size` the maximum size of the content.
pub(crate) fn explain_error(error: Error, offset: u64, max_size: u64) -> Error {
    match error.code {
        ErrorCode::OffsetMismatch => {
            let expected =
                error.members().find(|(name, _)| *name == "offset").map(|(_, value)| value.clone());
            let error = error.with_member(PROVIDED_OFFSET, offset);
            match expected {
                Some(expected) => error.with_member(EXPECTED_OFFSET, expected),
                None => error,
            }
        }
        ErrorCode::TooLarge => error.with_member(MAX_SIZE, max_size),
        _ => error,
    }
}

/// Ends an upload if a body of unknown length was larger than the content may be: the bytes that
/// fit are not the content. Returns the error for the client, as [`explain_error`] does.
pub(crate) async fn end_after_error(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    spec: &AppendSpec,
    error: Error,
    max_size: u64,
) -> Error {
    if error.code == ErrorCode::TooLarge
        && spec.size == SizeHint::Unknown
        // If this fails, the upload expires later.
        && let Err(error) = abort_upload(uploads, uid).await
    {
        tracing::warn!(%uid, error = error_chain(&error), "cannot abort an upload yet");
    }
    explain_error(error, spec.offset, max_size)
}
