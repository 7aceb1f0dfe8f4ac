use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use osproxy_api::v1::{CopyFileRequest, PREFIX};

use super::{
    idempotency::{Created, once},
    json,
    path::{self, InPath},
    query::Query,
    render,
};
use crate::{Result, app::App, ops, uid::Uid};

/// `POST /files/{uid}/copy`
pub(in crate::http) async fn copy_file(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
    request: Request,
) -> Result<Response> {
    let uid = path::uid(uid)?;
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let body = json::read(&request.headers, body).await?;
    let wanted: CopyFileRequest = json::parse(&body)?;
    once(&app, &request, &body, copy(app.clone(), uid, wanted)).await
}

async fn copy(app: Arc<App>, uid: Uid, wanted: CopyFileRequest) -> Result<Created> {
    let CopyFileRequest { name, metadata } = wanted;
    let copy = ops::copy_file::copy_file(&app, uid, name.as_deref(), metadata).await?;
    let location = format!("{PREFIX}/files/{}", copy.uid);
    Created::new(Some(location), &render::file(copy))
}
