//! JSON bodies.

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use osproxy_api::ErrorCode;

use crate::extract::body;
pub(super) use crate::extract::json::{parse, parse_array};
use osproxy_core::{Error, Result};

/// Largest JSON body, in bytes.
const MAX_BODY: usize = 64 * 1024;

const JSON: &str = "application/json";

/// Content type of a merge patch (RFC 7396).
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Reads a JSON body, without parsing it: idempotency keys need the bytes. Pass the bytes to
/// [`parse`] next.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes> {
    read_typed(&[JSON], headers, body).await
}

/// Reads a merge patch. Also accepts the content type of plain JSON.
pub(super) async fn read_patch(headers: &HeaderMap, body: Body) -> Result<Bytes> {
    read_typed(&[MERGE_PATCH, JSON], headers, body).await
}

async fn read_typed(types: &[&str], headers: &HeaderMap, body: Body) -> Result<Bytes> {
    let content_type =
        headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or_default());
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !types.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        let message = format!("the content type must be {}", types.join(" or "));
        return Err(Error::new(ErrorCode::UnsupportedMediaType, message));
    }
    body::read_limited(body, MAX_BODY).await
}

#[cfg(test)]
mod tests {
    use super::*;
    #[tokio::test]
    async fn other_types_and_large_bodies_are_rejected() {
        let headers = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, given.parse().unwrap());
            headers
        };
        for given in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(read(&headers(given), Body::from("{}")).await.unwrap(), "{}");
        }
        let patch = headers("application/merge-patch+json");
        assert_eq!(read_patch(&patch, Body::from("{}")).await.unwrap(), "{}");
        for wrong in [HeaderMap::new(), headers("text/plain"), headers("application/jsonp"), patch] {
            let error = read(&wrong, Body::from("{}")).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::UnsupportedMediaType);
        }
        let large = Body::from(vec![b' '; MAX_BODY + 1]);
        let error = read(&headers("application/json"), large).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge);
    }
}
