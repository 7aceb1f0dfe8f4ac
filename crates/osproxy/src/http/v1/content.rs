use axum::http::{HeaderMap, header};
use osproxy_api::ErrorCode;

use crate::{Error, Result};

/// Refuses a form where the body is content as it is: its frame would become part of the file.
pub(super) fn must_be_raw(headers: &HeaderMap) -> Result<()> {
    let given = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or_default());
    if given.trim_start().to_ascii_lowercase().starts_with("multipart/") {
        let message = "the body is the content as it is, without a form around it";
        return Err(Error::new(ErrorCode::UnsupportedMediaType, message));
    }
    Ok(())
}
