use axum::{body::Body, http::HeaderMap};
use serde::de::DeserializeOwned;

use crate::{Error, Result, http::body};

/// Largest JSON body, in bytes: 50 paths of 4 KiB fit, and 200 uids many times.
const MAX_BODY: usize = 256 * 1024;

/// Reads a JSON body. As in the Go program, the content type does not matter.
pub(super) async fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T> {
    serde_json::from_slice(&body::small(headers, body, MAX_BODY).await?)
        .map_err(|error| Error::invalid(format!("the body is not the JSON that is expected here: {error}")))
}
