use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use osproxy_api::v1::PREFIX;
use osproxy_core::{App, ops};

use super::{
    path::{self, PathResult},
    upload_link,
};
use crate::{openapi, respond::error::HandlerResult};

/// `DELETE /uploads/{uid}`
#[utoipa::path(
    delete, path = "/uploads/{uid}", context_path = PREFIX, tag = "Uploads", operation_id = "v1_abort_upload",
    summary = "Abort an upload", description = "Deletes the upload and the parts that were received.",
    params(
        openapi::UidPath,
        openapi::SignedQuery,
    ),
    responses(
        (status = 204, description = "The upload and its parts are deleted."),
        (status = 409, response = openapi::Conflict),
        openapi::Failures,
        openapi::OfLink,
    )
)]
pub(crate) async fn abort_upload(
    State(app): State<Arc<App>>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<StatusCode> {
    let (request, _) = request.into_parts();
    let (uid, _) = upload_link::verify(&app, &path::parameters(uid)?, &request).await?;
    ops::abort_upload::abort_upload(&app, uid).await?;
    Ok(StatusCode::NO_CONTENT)
}
