use std::sync::Arc;

use axum::{
    body::HttpBody,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use osproxy_api::v1::{CompleteUploadRequest, PREFIX, UploadStatus};
use osproxy_core::{
    App,
    ops::{self, complete_upload::CompleteRequest},
};

use super::{
    digest, json,
    path::{self, PathResult},
    upload_link, upload_status,
};
use crate::{
    forward::{self, RequestSource},
    openapi,
    respond::error::HandlerResult,
};

/// `POST /uploads/{uid}/complete`
#[utoipa::path(
    post, path = "/uploads/{uid}/complete", context_path = PREFIX, tag = "Uploads", operation_id = "v1_complete_upload",
    summary = "Complete an upload in parts", description = "",
    params(
        openapi::UidPath,
        openapi::SignedQuery,
    ),
    request_body(content = Option<CompleteUploadRequest>, description = "Expected values, which must match the parts. The body is optional."),
    responses(
        (status = 200, description = "The file can be read.", body = UploadStatus),
        openapi::Failures,
        openapi::OfLink,
        openapi::OfContent,
        openapi::OfRoom,
    )
)]
pub(crate) async fn complete_upload(
    State(app): State<Arc<App>>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, body) = request.into_parts();
    let (uid, constraints) = upload_link::verify(&app, &path::parameters(uid)?, &request).await?;
    if forward::request_source(&app, &request)? == RequestSource::Client
        && let Some(store) = ops::locate_content::parts_elsewhere(&app, uid).await?
    {
        return Ok(
            forward::forward(&app, RequestSource::Client, &store, Request::from_parts(request, body)).await?
        );
    }
    let expected: CompleteUploadRequest = if body.size_hint().exact() == Some(0) {
        CompleteUploadRequest::default()
    } else {
        let body = json::read(&request.headers, body).await?;
        // `null` counts as no body.
        if body.trim_ascii() == b"null" { CompleteUploadRequest::default() } else { json::parse(&body)? }
    };
    let expected_digests =
        digest::from_fields(expected.md5.as_ref(), expected.sha256.as_ref(), expected.blake3.as_ref())?;
    let said = CompleteRequest { parts: expected.parts, size: expected.size, expected: expected_digests };
    ops::complete_upload::complete_upload(&app, uid, said, &constraints).await?;
    Ok(upload_status::status(&app, uid).await?.into_response())
}
