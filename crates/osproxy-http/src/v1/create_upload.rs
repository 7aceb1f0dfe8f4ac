use std::{ops::Range, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use osproxy_api::v1::{self, ByteRange, CreateUploadRequest, CreatedState, CreatedUpload, PREFIX};
use osproxy_core::{
    App, Caller, Error, HeldIdempotencyKey, Result,
    ops::{
        self, LinkConstraints,
        create_upload::{AnnouncedContent, PossessionChallenge, UploadRequest},
    },
    upload_constraints,
};
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::{
    digest,
    idempotency::{CreatedResponse, run_idempotent},
    json,
    query::Query,
    time_format::format_time,
};
use crate::{
    extract::auth::{Authenticated, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// `POST /uploads`
#[utoipa::path(
    post, path = "/uploads", context_path = PREFIX, tag = "Uploads", operation_id = "v1_create_upload",
    summary = "Create an upload", description = "Pass the links to the client that has the content. If the content with the given digests is already stored, it need not be sent.",
    params(
        openapi::IdempotencyKey,
    ),
    request_body(content = CreateUploadRequest),
    security(("api_key" = ["upload"])),
    responses(
        (status = 201, description = "The upload was created.", body = CreatedUpload, headers(("location" = String, description = "URL of the new file."), ("idempotency-replayed" = String, description = "`true` if this is the recorded response to an earlier request with the same key."))),
        openapi::Failures,
        openapi::OfBody,
        openapi::OfKey,
        openapi::OfRoom,
    )
)]
pub(crate) async fn create_upload(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let body = json::read(&request.headers, body).await?;
    let wanted: CreateUploadRequest = json::parse(&body)?;
    run_idempotent(&app, &caller, &request, &body, |key| create(app.clone(), caller.clone(), wanted, key))
        .await
}

async fn create(
    app: Arc<App>,
    caller: Caller,
    mut request: CreateUploadRequest,
    key: Option<HeldIdempotencyKey>,
) -> Result<CreatedResponse> {
    let expire = request.expires_in;
    let constraints = upload_constraints(&caller, request.size, request.constraints.take())?;
    let upload_request = upload_request(request)?;
    let created =
        ops::create_upload::create_upload(&app, &caller, vec![upload_request], expire, key.as_ref()).await?;
    let date = (created.created_at, expire);
    let missing = || Error::internal("an upload was not created");
    let upload = created.uploads.into_iter().next().ok_or_else(missing)?;
    let is_pending = !upload.is_stored;
    // The date of a link has whole seconds.
    let expires_at = created.created_at.unix_timestamp().saturating_add(expire).saturating_mul(1000);
    let answer = CreatedUpload {
        uid: upload.uid.to_string(),
        state: if is_pending { CreatedState::Pending } else { CreatedState::Stored },
        part_size: upload.part_size.filter(|_| is_pending),
        links: is_pending.then(|| app.upload_links(upload.uid, date, &constraints)),
        expires_at: is_pending.then(|| format_time(expires_at)),
        challenge: upload
            .challenge
            .map(|challenge| render_challenge(&app, upload.uid, date, &constraints, challenge)),
    };
    CreatedResponse::new(Some(format!("{PREFIX}/files/{}", upload.uid)), &answer)
}

/// Renders a challenge, with the link for its proof.
fn render_challenge(
    app: &App,
    uid: Uid,
    date: (OffsetDateTime, i64),
    constraints: &LinkConstraints,
    challenge: PossessionChallenge,
) -> v1::Challenge {
    let range = |range: Range<u64>| ByteRange { offset: range.start, length: range.end - range.start };
    v1::Challenge {
        key: hex::encode(challenge.nonce),
        ranges: challenge.ranges.into_iter().map(range).collect(),
        link: app.proof_link(uid, date, constraints),
        expires_at: format_time(challenge.expires_at),
    }
}

fn upload_request(request: CreateUploadRequest) -> Result<UploadRequest> {
    let expected_digests =
        digest::from_fields(request.md5.as_ref(), request.sha256.as_ref(), request.blake3.as_ref())?;
    let announced = AnnouncedContent {
        size: request.size,
        part_size: request.part_size,
        content_type: request.content_type,
        expected: expected_digests,
        metadata: request.metadata,
    };
    Ok(UploadRequest { path: request.name, announced })
}
