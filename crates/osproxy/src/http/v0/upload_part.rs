use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, Uri},
};
use osproxy_api::v0::Envelope;

use super::{body, query::Query};
use crate::{Result, app::App, link::Action, ops};

/// `PUT /upload/multi`: one part, in the field `file` of a form, or as the body.
pub(in crate::http) async fn upload_part(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Envelope<&'static str>>> {
    let query = Query::parse(uri.query());
    let uid = query.verified_uid(&app, Action::Upload, &[])?;
    let number = query.number("chunkNum")?;
    let md5 = query.md5()?;
    let (size, content) = body::content(&headers, body, md5).await?;
    ops::upload_part::upload_part(&app, uid, number, md5, size, content).await?;
    Ok(Json(Envelope::ok("")))
}
