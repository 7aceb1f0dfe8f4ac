use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use osproxy_api::v1::{PREFIX, ProofRequest, UploadStatus};
use osproxy_core::{App, ops};

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

/// `POST /uploads/{uid}/proof`
#[utoipa::path(
    post, path = "/uploads/{uid}/proof", context_path = PREFIX, tag = "Uploads", operation_id = "v1_prove_possession",
    summary = "Answer a challenge", description = "Proves that the client has the content, which is already stored and need not be sent.",
    params(
        openapi::UidPath,
        openapi::SignedQuery,
    ),
    request_body(content = ProofRequest),
    responses(
        (status = 200, description = "The file is stored.", body = UploadStatus),
        openapi::Failures,
        openapi::OfLink,
        openapi::OfContent,
        openapi::OfRoom,
    )
)]
pub(crate) async fn prove_possession(
    State(app): State<Arc<App>>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, body) = request.into_parts();
    let (uid, _) = upload_link::verify(&app, &path::parameters(uid)?, &request).await?;
    if forward::request_source(&app, &request)? == RequestSource::Client
        && let Some(store) = ops::prove_possession::content_elsewhere(&app, uid).await?
    {
        return Ok(
            forward::forward(&app, RequestSource::Client, &store, Request::from_parts(request, body)).await?
        );
    }
    let ProofRequest { proof } = json::parse(&json::read(&request.headers, body).await?)?;
    let proof = digest::required_hex("proof", &proof)?;
    ops::prove_possession::prove_possession(&app, uid, proof).await?;
    Ok(upload_status::status(&app, uid).await?.into_response())
}
