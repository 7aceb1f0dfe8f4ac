use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v1::File;

use super::{
    path::{self, InPath},
    query::Query,
    render,
};
use crate::{Result, app::App, ops};

/// `GET /files/{uid}`
pub(in crate::http) async fn describe_file(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
    uri: Uri,
) -> Result<Json<File>> {
    Query::parse(uri.query(), &[])?;
    let file = ops::describe_file::describe_file(&app, path::uid(uid)?).await?;
    Ok(Json(render::file(file)))
}
