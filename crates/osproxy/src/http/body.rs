//! Content, and JSON, as the body of a request.

use std::pin::Pin;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use osproxy_api::ErrorCode;

use super::middleware::TooSlow;
use crate::{Error, Result, ops::upload_file::SizeHint};

/// Content as it arrives, and what is known of its length.
pub(super) type Content = (SizeHint, Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>);

/// A body as it is.
pub(super) fn raw(body: Body) -> Content {
    let size = body.size_hint().exact().map_or(SizeHint::Unknown, SizeHint::Exact);
    (size, Box::pin(body.into_data_stream().map(|piece| piece.map_err(|error| broken(&error)))))
}

/// A body that is read at once, of at most `max` bytes.
pub(super) async fn small(body: Body, max: usize) -> Result<Bytes> {
    let body = Limited::new(body, max).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Error::new(ErrorCode::TooLarge, format!("the body must not be larger than {max} bytes"))
        } else {
            broken(&*error)
        }
    })?;
    Ok(body.to_bytes())
}

/// The error of a body that broke off: the client went away, did not keep to what it announced, or was too slow.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Error {
    let causes = || std::iter::successors(Some(error), |error| error.source());
    if let Some(slow) = causes().find_map(|cause| cause.downcast_ref::<TooSlow>()) {
        return Error::new(ErrorCode::IncompleteBody, format!("the body was given up: {slow}"));
    }
    // What hyper says of chunks that are none.
    let is_malformed = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
    };
    if causes().filter_map(|cause| cause.downcast_ref()).any(is_malformed) {
        return Error::invalid("the chunks of the body are malformed");
    }
    Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete")
}
