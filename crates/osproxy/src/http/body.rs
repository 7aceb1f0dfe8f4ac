//! Content as the body of a request.

use std::pin::Pin;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body::Body as _;
use osproxy_api::ErrorCode;

use crate::{Error, Result, ops::upload_file::SizeHint};

/// Content as it arrives, and what is known of its length.
pub(super) type Content = (SizeHint, Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>);

/// A body as it is.
pub(super) fn raw(body: Body) -> Content {
    let size = body.size_hint().exact().map_or(SizeHint::Unknown, SizeHint::Exact);
    // The client went away, or did not keep to what it announced.
    let broken = |_| Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete");
    (size, Box::pin(body.into_data_stream().map_err(broken)))
}
