use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use osproxy_api::v1::{PREFIX, UploadState, UploadStatus};

use super::{
    path::{self, InPath},
    upload_link,
};
use crate::{
    Result,
    app::App,
    http::openapi,
    ops::{self, upload_status::FileState},
    uid::Uid,
};

/// `GET /uploads/{uid}`
#[utoipa::path(
    get, path = "/uploads/{uid}", context_path = PREFIX, tag = "Uploads", operation_id = "v1_upload_status",
    summary = "Say what has been received", description = "",
    params(
        openapi::UidInPath,
        openapi::SignedQuery,
    ),
    responses(
        (status = 200, description = "Where the upload stands.", body = UploadStatus),
        openapi::Failures,
        openapi::OfLink,
    )
)]
pub(in crate::http) async fn upload_status(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
    request: Request,
) -> Result<Json<UploadStatus>> {
    let (request, _) = request.into_parts();
    let (uid, _) = upload_link::verified(&app, &path::parameters(uid)?, &request).await?;
    status(&app, uid).await
}

/// Where an upload stands.
pub(super) async fn status(app: &App, uid: Uid) -> Result<Json<UploadStatus>> {
    let status = ops::upload_status::upload_status(app, uid).await?;
    Ok(Json(UploadStatus {
        uid: uid.to_string(),
        state: match status.state {
            FileState::Pending => UploadState::Pending,
            FileState::Completing => UploadState::Completing,
            FileState::Stored => UploadState::Stored,
            // Files in other states have no status.
            _ => UploadState::Receiving,
        },
        size: status.size,
        part_size: status.part_size,
        parts: status.parts,
        received: status.received,
    }))
}
