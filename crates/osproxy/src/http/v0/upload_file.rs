use std::sync::Arc;

use axum::{
    Json,
    body::{Body, BodyDataStream},
    extract::State,
    http::{HeaderMap, Uri, header},
};
use futures_util::TryStreamExt;
use http_body::Body as _;
use osproxy_api::{ErrorCode, v0::Envelope};

use super::{form, query::Query};
use crate::{
    Error, Result,
    app::App,
    link::Action,
    ops::upload_file::{SizeHint, upload_file as store},
};

/// The md5 of nothing. Some clients announce no length with an empty body: that it is meant to be empty
/// shows by this then.
const EMPTY_MD5: [u8; 16] = 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e_u128.to_be_bytes();

/// `PUT /upload`: the field `file` of a form, or the body as it is.
pub(in crate::http) async fn upload_file(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Envelope<&'static str>>> {
    let query = Query::parse(uri.query());
    let uid = query.verified_uid(&app, Action::Upload, &[])?;
    let md5 = query.md5()?;
    let length = body.size_hint().exact();
    let content_type =
        headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or_default());
    if form::is_form(content_type) {
        let size = length.map_or(SizeHint::Unknown, SizeHint::AtMost);
        let file = form::file(content_type, body.into_data_stream()).await?;
        store(&app, uid, md5, size, Box::pin(file)).await?;
    } else {
        let announced =
            headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
        if !announced && md5 != Some(EMPTY_MD5) {
            return Err(Error::invalid("the request has no body; an empty file needs `Content-Length: 0`"));
        }
        let size = length.map_or(SizeHint::Unknown, SizeHint::Exact);
        store(&app, uid, md5, size, raw(body.into_data_stream())).await?;
    }
    Ok(Json(Envelope::ok("")))
}

fn raw(body: BodyDataStream) -> impl futures_util::Stream<Item = Result<bytes::Bytes>> + Send + Unpin {
    body.map_err(|_| broken())
}

/// The client went away, or did not keep to what it announced.
fn broken() -> Error {
    Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete")
}
