use axum::body::Body;
use serde::de::DeserializeOwned;

use crate::{
    Result,
    http::{body, json},
};

/// Largest JSON body, in bytes: 50 paths of 4 KiB fit, and 200 uids many times.
const MAX_BODY: usize = 256 * 1024;

/// Reads a JSON body. As in the Go program, the content type does not matter.
pub(super) async fn parse<T: DeserializeOwned>(body: Body) -> Result<T> {
    json::parse(&body::small(body, MAX_BODY).await?)
}
