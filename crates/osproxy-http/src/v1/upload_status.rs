use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
};
use osproxy_api::v1::{PREFIX, UploadState, UploadStatus};
use osproxy_core::{
    App,
    ops::{self, upload_status::FileState},
};
use osproxy_types::uid::Uid;

use super::{
    path::{self, PathResult},
    upload_link,
};
use crate::{
    extract::auth::{Authenticated, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// A request with any of these is authenticated as a link.
const LINK_PARAMETERS: [&str; 3] = ["date", "expire", "signature"];

/// `GET /uploads/{uid}`: with an upload link, or with an API key and no parameter of a link.
#[utoipa::path(
    get, path = "/uploads/{uid}", context_path = PREFIX, tag = "Uploads", operation_id = "v1_upload_status",
    summary = "Get the status of an upload", description = "Requires an upload link, or an API key and no parameter of a link.",
    params(
        openapi::UidPath,
        openapi::OptionalSignedQuery,
    ),
    security((), ("api_key" = ["upload"])),
    responses(
        (status = 200, description = "The status of the upload.", body = UploadStatus),
        openapi::Failures,
        openapi::OfLink,
    )
)]
pub(crate) async fn upload_status(
    State(app): State<Arc<App>>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<UploadStatus>> {
    let (mut request, _) = request.into_parts();
    let query = request.uri.query().unwrap_or_default().as_bytes();
    if !form_urlencoded::parse(query).any(|(name, _)| LINK_PARAMETERS.contains(&&*name)) {
        let Authenticated { caller, .. } =
            Authenticated::<Upload>::from_request_parts(&mut request, &app).await?;
        let uid = path::uid(uid)?;
        return Ok(render(uid, ops::upload_status::own_upload_status(&app, &caller.tenant, uid).await?));
    }
    let (uid, _) = upload_link::verify(&app, &path::parameters(uid)?, &request).await?;
    status(&app, uid).await
}

/// Returns the status of an upload.
pub(super) async fn status(app: &App, uid: Uid) -> HandlerResult<Json<UploadStatus>> {
    Ok(render(uid, ops::upload_status::upload_status(app, uid).await?))
}

fn render(uid: Uid, status: ops::upload_status::UploadProgress) -> Json<UploadStatus> {
    Json(UploadStatus {
        uid: uid.to_string(),
        state: match status.state {
            FileState::Pending => UploadState::Pending,
            FileState::Completing => UploadState::Completing,
            FileState::Stored => UploadState::Stored,
            // The operation fails for files in the remaining states.
            _ => UploadState::Receiving,
        },
        size: status.size,
        part_size: status.part_size,
        parts: status.parts,
        received: status.received,
    })
}
