use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, Uri},
};
use osproxy_api::v1::{File, UpdateFileRequest};

use super::{
    json,
    path::{self, InPath},
    query::Query,
    render,
};
use crate::{Result, app::App, ops};

/// `PATCH /files/{uid}`
pub(in crate::http) async fn update_file(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<File>> {
    let uid = path::uid(uid)?;
    Query::parse(uri.query(), &[])?;
    let UpdateFileRequest { name, metadata } = json::parse(&json::read_patch(&headers, body).await?)?;
    let file = ops::update_file::update_file(&app, uid, name.as_deref(), metadata).await?;
    Ok(Json(render::file(file)))
}
