//! JSON bodies.

use axum::body::Body;
use osproxy_core::Result;
use serde::de::DeserializeOwned;

use crate::extract::{body, json};

/// Largest JSON body, in bytes: enough for 50 paths of 4 KiB, or 200 uids.
const MAX_BODY: usize = 256 * 1024;

/// Parses a JSON body. Like the Go program, ignores the content type.
pub(super) async fn parse<T: DeserializeOwned>(body: Body) -> Result<T> {
    json::parse(&body::read_limited(body, MAX_BODY).await?)
}
