//! Reads a byte range of an object. Checks that the response contains the range, and drops all
//! other bytes of the response.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{Method, StatusCode, header};
use reqwest::Response;

use super::{
    Vendor,
    client::{Client, Request, connection_error, content_length},
};
use crate::{Error, ErrorKind, Key, ObjectReader, Result};

/// Opens a range, which must not be empty.
pub(super) async fn open<V: Vendor>(
    client: &Client<V>,
    key: &Key,
    range: Range<u64>,
) -> Result<ObjectReader> {
    let mut get = Request::to_object(Method::GET, key, "open");
    get.headers.insert(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
    let response = client.send(get).await?;
    let skip = bytes_before::<V>(&response, &range)?;
    Ok(Box::pin(exactly::<V>(response, skip, range.end - range.start)))
}

/// Number of bytes in the response that come before the range. Some stores send the range with
/// status 200; other stores ignore ranges and send the whole object.
fn bytes_before<V: Vendor>(response: &Response, range: &Range<u64>) -> Result<u64> {
    let expected_len = range.end - range.start;
    let truncated = || Error::new(ErrorKind::Truncated, V::NAME, "open");
    let wrong_range = || {
        Error::new(ErrorKind::Other, V::NAME, "open")
            .with_message("the response has a different range than requested")
    };
    let length = content_length(response).ok_or_else(wrong_range)?;
    let content_range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    if let Some(range_text) = content_range {
        let start = range_text.strip_prefix("bytes ").and_then(|bounds| bounds.split_once('-'));
        if start.and_then(|(start, _)| start.parse().ok()) != Some(range.start) {
            return Err(wrong_range());
        }
        return if length < expected_len { Err(truncated()) } else { Ok(0) };
    }
    if length == expected_len && range.start == 0 {
        return Ok(0);
    }
    if response.status() == StatusCode::PARTIAL_CONTENT {
        return Err(if length < expected_len { truncated() } else { wrong_range() });
    }
    if length < range.end { Err(truncated()) } else { Ok(range.start) }
}

struct BodyReader {
    response: Response,
    skip: u64,
    remaining: u64,
}

/// Skips `skip` bytes of the response, and then returns exactly `len` bytes or an error.
fn exactly<V: Vendor>(response: Response, skip: u64, len: u64) -> impl Stream<Item = Result<Bytes>> + Send {
    let chunks = stream::try_unfold(BodyReader { response, skip, remaining: len }, |mut reader| async move {
        while reader.remaining > 0 {
            let next = reader.response.chunk().await.map_err(|error| connection_error::<V>("read", error))?;
            let Some(mut bytes) = next else {
                let error = Error::new(ErrorKind::Other, V::NAME, "read");
                return Err(error.with_message("the response ended too early").mark_retryable());
            };
            let skipped = reader.skip.min(bytes.len() as u64);
            reader.skip -= skipped;
            bytes = bytes.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
            bytes.truncate(usize::try_from(reader.remaining).unwrap_or(usize::MAX));
            if !bytes.is_empty() {
                reader.remaining -= bytes.len() as u64;
                return Ok(Some((bytes, reader)));
            }
        }
        Ok(None)
    });
    chunks.fuse()
}
