use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use super::path::{self, InPath};
use crate::{Result, app::App, ops};

/// `DELETE /files/{uid}`
pub(in crate::http) async fn delete_file(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
) -> Result<StatusCode> {
    ops::delete_file::delete_file(&app, path::uid(uid)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
