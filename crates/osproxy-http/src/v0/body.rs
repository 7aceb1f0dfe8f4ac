//! Request bodies with content: raw, or the field `file` of a form.

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use http_body::Body as _;
use osproxy_core::{Error, Result, ops::upload_file::SizeHint};

use super::form;
use crate::extract::body::{self, ContentStream};

/// MD5 of empty content. Some clients send an empty body without a length. If they send this digest
/// too, the content is meant to be empty.
const EMPTY_MD5: [u8; 16] = 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e_u128.to_be_bytes();

/// Returns the content of a request: the field `file` of a form, or the raw body. `md5` is the
/// expected digest. Fails with `InvalidArgument` if a raw body has neither `Content-Length` nor
/// `Transfer-Encoding`, unless `md5` is the digest of empty content.
pub(super) async fn content(headers: &HeaderMap, body: Body, md5: Option<[u8; 16]>) -> Result<ContentStream> {
    let length = body.size_hint().exact();
    let content_type =
        headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or_default());
    if form::is_form(content_type) {
        let size = length.map_or(SizeHint::Unknown, SizeHint::AtMost);
        let file = form::content_stream(content_type, body.into_data_stream()).await?;
        return Ok((size, Box::pin(file)));
    }
    let has_length =
        headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    if !has_length && md5 != Some(EMPTY_MD5) {
        return Err(Error::invalid(
            "the request has no body; to send empty content, set `Content-Length: 0`",
        ));
    }
    Ok(body::into_content(body))
}
