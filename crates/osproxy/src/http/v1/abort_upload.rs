use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
};

use super::{
    path::{self, InPath},
    upload_link,
};
use crate::{Result, app::App, ops};

/// `DELETE /uploads/{uid}`
pub(in crate::http) async fn abort_upload(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
    request: Request,
) -> Result<StatusCode> {
    let uid = upload_link::verified(&app, &path::parameters(uid)?, request.uri().query())?;
    ops::abort_upload::abort_upload(&app, uid).await?;
    Ok(StatusCode::NO_CONTENT)
}
