use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use osproxy_api::{
    schema::Content,
    v1::{PREFIX, UploadStatus},
};
use osproxy_core::{
    App,
    ops::{self, UploadOptions, upload_file::DigestSelection},
};

use super::{
    digest,
    path::{self, PathResult},
    reject_form::reject_form,
    upload_link, upload_status,
};
use crate::{extract::body, openapi, respond::error::HandlerResult};

/// `PUT /uploads/{uid}/content`: the body is the whole content.
#[utoipa::path(
    put, path = "/uploads/{uid}/content", context_path = PREFIX, tag = "Uploads", operation_id = "v1_upload_file",
    summary = "Upload the whole content", description = "",
    params(
        openapi::UidPath,
        openapi::SignedQuery,
        openapi::DigestHeaders,
    ),
    request_body(content = Content, content_type = "application/octet-stream", description = "The raw content."),
    responses(
        (status = 200, description = "The file is durably stored.", body = UploadStatus),
        openapi::Failures,
        openapi::OfLink,
        openapi::OfContent,
        openapi::OfRoom,
    )
)]
pub(crate) async fn upload_file(
    State(app): State<Arc<App>>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<UploadStatus>> {
    let (request, content) = request.into_parts();
    let (uid, constraints) = upload_link::verify(&app, &path::parameters(uid)?, &request).await?;
    reject_form(&request.headers)?;
    let options = UploadOptions {
        expected: digest::from_headers(&request.headers)?,
        digests: DigestSelection::default(),
        constraints,
    };
    let (size, content) = body::into_content(content);
    ops::upload_file::upload_file(&app, uid, options, size, content).await?;
    upload_status::status(&app, uid).await
}
