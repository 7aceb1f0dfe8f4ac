use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
};

use super::{
    path::{self, InPath},
    query::Query,
};
use crate::{Result, app::App, ops};

/// `DELETE /files/{uid}`
pub(in crate::http) async fn delete_file(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
    uri: Uri,
) -> Result<StatusCode> {
    Query::parse(uri.query(), &[])?;
    ops::delete_file::delete_file(&app, path::uid(uid)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
