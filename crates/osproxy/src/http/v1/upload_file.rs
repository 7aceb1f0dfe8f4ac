use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use osproxy_api::{
    schema::Content,
    v1::{PREFIX, UploadStatus},
};

use super::{
    content, digest,
    path::{self, InPath},
    upload_link, upload_status,
};
use crate::{
    Result,
    app::App,
    http::{body, openapi},
    ops::{self, Said, upload_file::Wanted},
};

/// `PUT /uploads/{uid}/content`: the body is the whole content.
#[utoipa::path(
    put, path = "/uploads/{uid}/content", context_path = PREFIX, tag = "Uploads", operation_id = "v1_upload_file",
    summary = "Upload the whole content", description = "",
    params(
        openapi::UidInPath,
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
pub(in crate::http) async fn upload_file(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
    request: Request,
) -> Result<Json<UploadStatus>> {
    let (request, content) = request.into_parts();
    let (uid, constraints) = upload_link::verified(&app, &path::parameters(uid)?, &request).await?;
    content::must_be_raw(&request.headers)?;
    let options =
        Said { expected: digest::of_headers(&request.headers)?, digests: Wanted::default(), constraints };
    let (size, content) = body::raw(content);
    ops::upload_file::upload_file(&app, uid, options, size, content).await?;
    upload_status::status(&app, uid).await
}
