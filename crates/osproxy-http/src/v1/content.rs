//! Content of an upload: sent whole, or part by part.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use osproxy_api::{
    schema::Content,
    v1::{PREFIX, UploadStatus},
};
use osproxy_cluster::Forwarder;
use osproxy_core::{
    Error,
    ops::{
        self, UploadOps, UploadOptions,
        upload_file::{DigestSelection, ExpectedDigests},
    },
};

use super::{
    digest,
    path::{self, PathResult},
    reject_form::reject_form,
    upload_link, uploads,
};
use crate::{
    extract::{body, link::LinkVerifier},
    forward::{self, RequestSource},
    openapi,
    respond::error::HandlerResult,
    resumable::{self, ContentRequest, Draft},
    settings::HttpSettings,
};

/// `PUT /uploads/{uid}/content`: the body is the whole content.
#[utoipa::path(
    put, path = "/uploads/{uid}/content", context_path = PREFIX, tag = "Uploads", operation_id = "v1_upload_file",
    summary = "Upload the whole content", description = "With `Upload-Complete`, the upload is resumable by draft-ietf-httpbis-resumable-upload, and the body may be only the beginning of the content (201).",
    params(
        openapi::UidPath,
        openapi::SignedQuery,
        openapi::DigestHeaders,
    ),
    request_body(content = Content, content_type = "application/octet-stream", description = "The raw content."),
    responses(
        (status = 200, description = "The file is durably stored.", body = UploadStatus),
        openapi::CommonErrors,
        openapi::LinkErrors,
        openapi::ContentBodyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn upload_file(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    State(forwarder): State<Forwarder>,
    State(settings): State<Arc<HttpSettings>>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, content) = request.into_parts();
    let (uid, constraints) = upload_link::verify(&verifier, &path::parameters(uid)?, &request).await?;
    reject_form(&request.headers)?;
    let expected = digest::from_headers(&request.headers)?;
    // The digests of the content are checked while it arrives in one request.
    if expected == ExpectedDigests::default()
        && let Some(draft) = Draft::from_headers(&request.headers)
        && let Some(ends_content) = draft.completes(&request.headers)
    {
        let request = ContentRequest { draft, ends_content, uid, constraints, head: request, body: content };
        return resumable::upload_content(&uploads, &forwarder, &settings, request).await;
    }
    let options = UploadOptions { expected, constraints, ..UploadOptions::default() };
    let (size, content) = body::into_content(content);
    match ops::upload_file::upload_file(&uploads, uid, options, size, content).await? {
        Some(status) => Ok(uploads::render_status(uid, status).into_response()),
        None => Ok(uploads::status(&uploads, uid).await?.into_response()),
    }
}

/// `PUT /uploads/{uid}/parts/{number}`: the body is one part.
#[utoipa::path(
    put, path = "/uploads/{uid}/parts/{number}", context_path = PREFIX, tag = "Uploads", operation_id = "v1_upload_part",
    summary = "Upload a part", description = "",
    params(
        openapi::UidPath,
        ("number" = u32, Path, minimum = 1, maximum = 10_000, description = "Number of the part, starting at 1.", example = 1),
        openapi::SignedQuery,
        openapi::DigestHeaders,
    ),
    request_body(content = Content, content_type = "application/octet-stream", description = "The raw content of the part."),
    responses(
        (status = 204, description = "The part is durably stored."),
        openapi::CommonErrors,
        openapi::LinkErrors,
        openapi::ContentBodyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn upload_part(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    State(forwarder): State<Forwarder>,
    parameters: PathResult<(String, String)>,
    request: Request,
) -> HandlerResult<Response> {
    let (uid, number) = path::parameters(parameters)?;
    let (request, content) = request.into_parts();
    let (uid, constraints) = upload_link::verify(&verifier, &uid, &request).await?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number
        .parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| Error::invalid("the part number must be a whole number").with_field("number"))?;
    ops::upload_part::check_number(&uploads, number)?;
    reject_form(&request.headers)?;
    let options = UploadOptions {
        expected: digest::from_headers(&request.headers)?,
        digests: DigestSelection::default(),
        constraints,
        ..UploadOptions::default()
    };
    if forward::request_source(&forwarder, &request)? == RequestSource::Client
        && let Some(store) = ops::choose_part_node::choose_part_node(&uploads, uid).await?
    {
        return Ok(forward::forward(
            &forwarder,
            RequestSource::Client,
            &store,
            Request::from_parts(request, content),
        )
        .await?);
    }
    let (size, content) = body::into_content(content);
    ops::upload_part::upload_part(&uploads, uid, number, options, size, content).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
