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

/// Opens a range that is not empty.
pub(super) async fn open<V: Vendor>(
    client: &Client<V>,
    key: &Key,
    range: Range<u64>,
) -> Result<ObjectReader> {
    let mut get = Request::to_object(Method::GET, key, "open");
    get.headers.insert(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
    let answer = client.send(get).await?;
    let skip = bytes_before::<V>(&answer, &range)?;
    Ok(Box::pin(exactly::<V>(answer, skip, range.end - range.start)))
}

/// Number of bytes in the response before the range. Some stores send the range with status 200,
/// and some ignore ranges and send the whole object.
fn bytes_before<V: Vendor>(answer: &Response, range: &Range<u64>) -> Result<u64> {
    let expected_len = range.end - range.start;
    let truncated = || Error::new(ErrorKind::Truncated, V::NAME, "open");
    let wrong_range = || {
        Error::new(ErrorKind::Other, V::NAME, "open")
            .with_message("the response has a different range than requested")
    };
    let length = content_length(answer).ok_or_else(wrong_range)?;
    let content_range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    if let Some(said) = content_range {
        let start = said.strip_prefix("bytes ").and_then(|said| said.split_once('-')).map(|(start, _)| start);
        if start.and_then(|start| start.parse().ok()) != Some(range.start) {
            return Err(wrong_range());
        }
        return if length < expected_len { Err(truncated()) } else { Ok(0) };
    }
    if length == expected_len && range.start == 0 {
        return Ok(0);
    }
    if answer.status() == StatusCode::PARTIAL_CONTENT {
        return Err(if length < expected_len { truncated() } else { wrong_range() });
    }
    if length < range.end { Err(truncated()) } else { Ok(range.start) }
}

struct BodyReader {
    answer: Response,
    skip: u64,
    remaining: u64,
}

/// Exactly `left` bytes of the response after the first `skip`, or an error.
fn exactly<V: Vendor>(answer: Response, skip: u64, left: u64) -> impl Stream<Item = Result<Bytes>> + Send {
    let pieces = stream::try_unfold(BodyReader { answer, skip, remaining: left }, |mut rest| async move {
        while rest.remaining > 0 {
            let next = rest.answer.chunk().await.map_err(|error| connection_error::<V>("read", error))?;
            let Some(mut bytes) = next else {
                let error = Error::new(ErrorKind::Other, V::NAME, "read");
                return Err(error.with_message("response ended early").mark_retryable());
            };
            let skipped = rest.skip.min(bytes.len() as u64);
            rest.skip -= skipped;
            bytes = bytes.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
            bytes.truncate(usize::try_from(rest.remaining).unwrap_or(usize::MAX));
            if !bytes.is_empty() {
                rest.remaining -= bytes.len() as u64;
                return Ok(Some((bytes, rest)));
            }
        }
        Ok(None)
    });
    pieces.fuse()
}
