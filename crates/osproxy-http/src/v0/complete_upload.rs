use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use osproxy_api::{
    schema::Md5,
    v0::{Envelope, PREFIX},
};
use osproxy_core::{
    App,
    links::LinkAction,
    ops::{
        self,
        complete_upload::{CompleteRequest, ExpectedDigests},
    },
};

use super::query::LenientQuery;
use crate::{
    extract::link::VerifiedLink,
    forward::{self, RequestSource},
    openapi,
    respond::error::HandlerResult,
};

/// `PUT /upload/merge`
#[utoipa::path(
    put, path = "/upload/merge", context_path = PREFIX, tag = "v0 Uploads",
    summary = "Complete an upload in parts", description = "",
    params(
        openapi::UploadLinkQuery,
        ("num" = u32, Query, minimum = 1, maximum = 10_000, description = "Number of parts.", example = 5),
        ("size" = u64, Query, description = "Size of all parts together, in bytes.", example = 41_943_040),
        ("md5" = Option<Md5>, Query, description = "Expected MD5 of the whole content. A mismatch makes the request fail. Content larger than `uploads.verify_up_to` is verified by a task afterwards; on a mismatch the file becomes corrupt."),
    ),
    responses(
        (status = 200, description = "The file can be read. Repeating the request has no effect.", body = Envelope<String>, example = json!({"code": 0, "message": "ok", "data": ""})),
        (status = 403, response = openapi::Forbidden),
        (status = 404, response = openapi::NotFound),
        (status = 413, response = openapi::TooLarge),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
        (status = 507, response = openapi::Full),
    )
)]
pub(crate) async fn complete_upload(
    State(app): State<Arc<App>>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, _) = request.into_parts();
    let query = LenientQuery::parse(request.uri.query());
    let (uid, VerifiedLink { constraints, .. }) =
        query.verify_link(&app, &request, LinkAction::Upload, &[]).await?;
    let (parts, size) = (query.number("num")?, query.number("size")?);
    let expected = CompleteRequest {
        parts: Some(parts),
        size: Some(size),
        expected: ExpectedDigests::md5_only(query.parse_md5()?),
    };
    // Only the node that has the parts can say whether the file can be read.
    if forward::request_source(&app, &request)? == RequestSource::Client
        && let Some(store) = ops::locate_content::parts_elsewhere(&app, uid).await?
    {
        return Ok(forward::forward_without_body(&app, RequestSource::Client, &store, &request).await?);
    }
    ops::complete_upload::complete_upload(&app, uid, expected, &constraints).await?;
    Ok(Json(Envelope::ok("")).into_response())
}
