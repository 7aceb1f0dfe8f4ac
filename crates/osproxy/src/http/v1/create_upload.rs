use std::{ops::Range, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use osproxy_api::v1::{self, ByteRange, CreateUploadRequest, CreatedState, CreatedUpload, PREFIX};
use time::OffsetDateTime;

use super::{
    digest,
    idempotency::{Created, once},
    json,
    moment::moment,
    query::Query,
};
use crate::{
    Error, Result,
    app::{App, Caller, TakenKey, upload_terms},
    http::{
        auth::{By, Upload},
        openapi,
    },
    ops::{
        self, Terms,
        create_upload::{Announced, Challenge, Wish},
    },
    uid::Uid,
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
pub(in crate::http) async fn create_upload(
    State(app): State<Arc<App>>,
    By { caller, .. }: By<Upload>,
    request: Request,
) -> Result<Response> {
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let body = json::read(&request.headers, body).await?;
    let wanted: CreateUploadRequest = json::parse(&body)?;
    once(&app, &caller, &request, &body, |key| create(app.clone(), caller.clone(), wanted, key)).await
}

async fn create(
    app: Arc<App>,
    caller: Caller,
    mut request: CreateUploadRequest,
    key: Option<TakenKey>,
) -> Result<Created> {
    let expire = request.expires_in;
    let constraints = upload_terms(&caller, request.size, request.constraints.take())?;
    let upload_request = wish(request)?;
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
        expires_at: is_pending.then(|| moment(expires_at)),
        challenge: upload.challenge.map(|challenge| render(&app, upload.uid, date, &constraints, challenge)),
    };
    Created::new(Some(format!("{PREFIX}/files/{}", upload.uid)), &answer)
}

/// Renders a challenge, with the link for its proof.
fn render(
    app: &App,
    uid: Uid,
    date: (OffsetDateTime, i64),
    constraints: &Terms,
    challenge: Challenge,
) -> v1::Challenge {
    let range = |range: Range<u64>| ByteRange { offset: range.start, length: range.end - range.start };
    v1::Challenge {
        key: hex::encode(challenge.nonce),
        ranges: challenge.ranges.into_iter().map(range).collect(),
        link: app.proof_link(uid, date, constraints),
        expires_at: moment(challenge.expires_at),
    }
}

fn wish(request: CreateUploadRequest) -> Result<Wish> {
    let expected_digests =
        digest::of_fields(request.md5.as_ref(), request.sha256.as_ref(), request.blake3.as_ref())?;
    let announced = Announced {
        size: request.size,
        part_size: request.part_size,
        content_type: request.content_type,
        expected: expected_digests,
        metadata: request.metadata,
    };
    Ok(Wish { path: request.name, announced })
}
