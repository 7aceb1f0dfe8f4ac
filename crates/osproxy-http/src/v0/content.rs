//! Content of an upload: sent whole, or part by part.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use osproxy_api::{
    schema::{Content, Md5},
    v0::{Envelope, PREFIX},
};
use osproxy_cluster::Forwarder;
use osproxy_core::{
    links::{LinkAction, ValidLink},
    ops::{
        self, UploadOps, UploadOptions,
        upload_file::{DigestSelection, ExpectedDigests},
    },
};

use super::{body, query::LenientQuery};
use crate::{
    extract::link::LinkVerifier,
    forward::{self, RequestSource},
    openapi,
    respond::error::HandlerResult,
};

/// `PUT /upload`: the content is the field `file` of a form, or the raw body.
#[utoipa::path(
    put, path = "/upload", context_path = PREFIX, tag = "v0 Uploads",
    summary = "Upload a whole file", description = "",
    params(
        openapi::UploadLinkQuery,
        ("md5" = Option<Md5>, Query, description = "Expected MD5 of the content."),
    ),
    request_body(description = "The content: the field `file` of a form or, with any other content type, the raw body.", content(
        (Content = "application/octet-stream"),
        (openapi::UploadForm = "multipart/form-data")
    )),
    responses(
        (status = 200, description = "The file is durably stored, or was already stored with the same content.", body = Envelope<String>, example = json!({"code": 0, "message": "ok", "data": ""})),
        (status = 404, response = openapi::NotFound),
        (status = 408, response = openapi::Interrupted),
        (status = 415, response = openapi::Encoded),
        (status = 501, response = openapi::Coded),
        (status = 413, response = openapi::TooLarge),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
        (status = 507, response = openapi::Full),
    )
)]
pub(crate) async fn upload_file(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    request: Request,
) -> HandlerResult<Json<Envelope<&'static str>>> {
    let (request, content) = request.into_parts();
    let query = LenientQuery::parse(request.uri.query());
    let (uid, ValidLink { constraints, .. }) =
        query.verify_link(&verifier, &request, LinkAction::Upload, &[]).await?;
    let md5 = query.parse_md5()?;
    let (size, content) = body::content(&request.headers, content, md5).await?;
    let options = UploadOptions {
        expected: ExpectedDigests::md5_only(md5),
        digests: DigestSelection::MD5,
        constraints,
        ..UploadOptions::default()
    };
    ops::upload_file::upload_file(&uploads, uid, options, size, content).await?;
    Ok(Json(Envelope::ok("")))
}

/// `PUT /upload/multi`: the part is the field `file` of a form, or the raw body.
#[utoipa::path(
    put, path = "/upload/multi", context_path = PREFIX, tag = "v0 Uploads",
    summary = "Upload a part", description = "",
    params(
        openapi::UploadLinkQuery,
        ("chunkNum" = u32, Query, minimum = 1, maximum = 10_000, description = "Number of the part, starting at 1.", example = 1),
        ("md5" = Option<Md5>, Query, description = "Expected MD5 of the part."),
    ),
    request_body(description = "The part: the field `file` of a form or, with any other content type, the raw body.", content(
        (Content = "application/octet-stream"),
        (openapi::UploadForm = "multipart/form-data")
    )),
    responses(
        (status = 200, description = "The part is durably stored.", body = Envelope<String>, example = json!({"code": 0, "message": "ok", "data": ""})),
        (status = 403, response = openapi::Forbidden),
        (status = 404, response = openapi::NotFound),
        (status = 408, response = openapi::Interrupted),
        (status = 415, response = openapi::Encoded),
        (status = 501, response = openapi::Coded),
        (status = 413, response = openapi::TooLarge),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
        (status = 507, response = openapi::Full),
    )
)]
pub(crate) async fn upload_part(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    State(forwarder): State<Forwarder>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, content) = request.into_parts();
    let query = LenientQuery::parse(request.uri.query());
    let (uid, ValidLink { constraints, .. }) =
        query.verify_link(&verifier, &request, LinkAction::Upload, &[]).await?;
    let number = query.number("chunkNum")?;
    ops::upload_part::check_number(&uploads, number)?;
    let md5 = query.parse_md5()?;
    if forward::request_source(&forwarder, &request)? == RequestSource::Client
        && let Some(store) = ops::choose_part_node::choose_part_node(&uploads, uid).await?
    {
        drop(query);
        return Ok(forward::forward(
            &forwarder,
            RequestSource::Client,
            &store,
            Request::from_parts(request, content),
        )
        .await?);
    }
    let (size, content) = body::content(&request.headers, content, md5).await?;
    let options = UploadOptions {
        expected: ExpectedDigests::md5_only(md5),
        // Only the MD5 of the whole content is recorded. A part has its BLAKE3.
        digests: DigestSelection::default(),
        constraints,
        ..UploadOptions::default()
    };
    ops::upload_part::upload_part(&uploads, uid, number, options, size, content).await?;
    Ok(Json(Envelope::ok("")).into_response())
}
