//! Rejection of forms where the body must be raw content.

use axum::http::{HeaderMap, header};
use osproxy_api::ErrorCode;
use osproxy_core::{Error, Result};

/// Rejects a form where the body must be raw content. Otherwise the stored content would include
/// the boundaries and headers of the form.
pub(crate) fn reject_form(headers: &HeaderMap) -> Result<()> {
    let content_type =
        headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or_default());
    if content_type.trim_start().to_ascii_lowercase().starts_with("multipart/") {
        let message = "a form is not supported here: send the content as the body";
        return Err(Error::new(ErrorCode::UnsupportedMediaType, message));
    }
    Ok(())
}
