use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use osproxy_api::ErrorCode;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Largest JSON body, in bytes: 50 paths of 4 KiB fit, and 200 uids many times.
const MAX_BODY: usize = 256 * 1024;

/// Reads a JSON body. As in the Go program, the content type does not matter.
pub(super) async fn parse<T: DeserializeOwned>(body: Body) -> Result<T> {
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Error::new(ErrorCode::TooLarge, format!("the body must not be larger than {MAX_BODY} bytes"))
        } else {
            Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete")
        }
    })?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| Error::invalid(format!("the body is not the JSON that is expected here: {error}")))
}
