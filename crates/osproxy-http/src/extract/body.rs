//! Request bodies: streamed content, and small bodies that are read whole.

use std::pin::Pin;

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use osproxy_api::ErrorCode;
use osproxy_core::{Error, Result, ops::upload_file::SizeHint};

use crate::middleware::TooSlow;

/// A stream of content, with a hint of its length.
pub(crate) type ContentStream = (SizeHint, Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>);

/// What is known about the length of a body.
pub(crate) fn size(body: &Body) -> SizeHint {
    body.size_hint().exact().map_or(SizeHint::Unknown, SizeHint::Exact)
}

/// Converts a body into a stream of content.
pub(crate) fn into_content(body: Body) -> ContentStream {
    (
        size(&body),
        Box::pin(body.into_data_stream().map(|chunk| chunk.map_err(|error| incomplete_body_error(&error)))),
    )
}

/// Reads a whole body. Fails with `TooLarge` beyond `max` bytes.
pub(crate) async fn read_limited(body: Body, max: usize) -> Result<Bytes> {
    let body = Limited::new(body, max).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Error::new(ErrorCode::TooLarge, format!("the body is larger than {max} bytes"))
        } else {
            incomplete_body_error(&*error)
        }
    })?;
    Ok(body.to_bytes())
}

/// Converts the errors of a body to [`Error`], for adapters that do not know the errors of this
/// crate.
pub(crate) async fn with_readable_errors(request: Request) -> Request {
    request.map(|body| Body::new(body.map_err(|error| incomplete_body_error(&error))))
}

/// Converts an error from reading a body. The code is `InvalidArgument` if the chunked encoding is
/// malformed, and `IncompleteBody` if the client disconnected or was too slow.
pub(crate) fn incomplete_body_error(error: &(dyn std::error::Error + 'static)) -> Error {
    let causes = || std::iter::successors(Some(error), |error| error.source());
    if let Some(slow) = causes().find_map(|cause| cause.downcast_ref::<TooSlow>()) {
        return Error::new(ErrorCode::IncompleteBody, format!("the body was not received in time: {slow}"));
    }
    // Hyper reports a malformed chunked encoding with these kinds.
    let is_malformed = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
    };
    if causes().filter_map(|cause| cause.downcast_ref()).any(is_malformed) {
        return Error::invalid("the chunked encoding of the body is malformed");
    }
    Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete")
}
