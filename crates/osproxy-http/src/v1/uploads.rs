//! Upload sessions. Applications create them; the clients of applications use them by signed link.

use std::{ops::Range, sync::Arc};

use axum::{
    Json,
    body::HttpBody,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use osproxy_api::v1::{
    self, ByteRange, CompleteUploadRequest, CreateUploadLinksRequest, CreateUploadRequest, CreatedState,
    CreatedUpload, CreatedUploadLinks, OneOrMore, PREFIX, ProofRequest, UploadState, UploadStatus,
};
use osproxy_cluster::Forwarder;
use osproxy_core::{
    Authenticator, Caller, Error, GRANT_PARAMETERS, HeldIdempotencyKey, IdempotencyKeys, Result,
    links::{LinkPeriod, Links},
    ops::{
        self, LinkConstraints, UploadOps,
        complete_upload::CompleteRequest,
        create_upload::{AnnouncedContent, NewUploadSession, PossessionChallenge, UploadRequest},
        upload_status::FileState,
    },
    upload_constraints,
};
use osproxy_types::{scope::Scope, uid::Uid};

use super::{
    digest,
    idempotency::{self, CreatedResponse, run_idempotent},
    json,
    path::{self, PathResult},
    query::Query,
    time_format::format_time,
    upload_link,
};
use crate::{
    extract::{
        auth::{self, Authenticated, Upload},
        link::LinkVerifier,
        upload_creator::UploadCreator,
    },
    forward::{self, RequestSource},
    openapi,
    respond::error::HandlerResult,
    state::HttpState,
};

/// Maximum lifetime of the links of an upload that is created under a grant. The grant is kept so
/// long after it has expired.
pub(crate) const MAX_GRANTED_LIFETIME_SECS: i64 = 30 * 24 * 3600;

/// Maximum number of uploads that one request creates.
const MAX_BATCH: usize = 100;

/// `POST /uploads`
#[utoipa::path(
    post, path = "/uploads", context_path = PREFIX, tag = "Uploads", operation_id = "v1_create_upload",
    summary = "Create an upload", description = "Pass the links to the client that has the content. If content with the given digests is already stored, the client need not send the content. An array creates up to 100 uploads, all or none, and the response is an array in the same order; all must have the same `expires_in`, and `Idempotency-Key` is not supported.\n\nInstead of an API key, the request may have the parameters of the link of an upload grant. Then the lifetime of the links is at most `uploads.tus_lifetime`, and `constraints` must be absent.",
    params(
        openapi::IdempotencyKey,
    ),
    request_body(content = OneOrMore<CreateUploadRequest>),
    security((), ("api_key" = ["upload"])),
    responses(
        (status = 201, description = "The upload was created.", body = OneOrMore<CreatedUpload>, headers(("location" = String, description = "URL of the new file."), ("idempotency-replayed" = String, description = "`true` if this is the recorded response to an earlier request with the same key."))),
        openapi::CommonErrors,
        openapi::JsonBodyErrors,
        openapi::IdempotencyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn create_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(links): State<Arc<Links>>,
    State(keys): State<Arc<IdempotencyKeys>>,
    State(HttpState { settings, .. }): State<HttpState>,
    UploadCreator(caller): UploadCreator,
    request: Request,
) -> HandlerResult<Response> {
    let (request, body) = request.into_parts();
    let parameters: &[&str] = if caller.grant().is_some() { &GRANT_PARAMETERS } else { &[] };
    Query::parse(request.uri.query(), parameters)?;
    let body = json::read(&request.headers, body).await?;
    let is_batch = body.trim_ascii_start().starts_with(b"[");
    let mut wanted: Vec<CreateUploadRequest> =
        if is_batch { json::parse_array(&body)? } else { vec![json::parse(&body)?] };
    if caller.grant().is_some() {
        let longest = settings.tus_lifetime_secs.min(MAX_GRANTED_LIFETIME_SECS);
        for upload in &mut wanted {
            upload.expires_in = upload.expires_in.min(longest);
        }
    }
    if is_batch && idempotency::key(&request.headers)?.is_some() {
        let message = "`Idempotency-Key` is supported for one upload only";
        return Err(Error::invalid(message).with_field(v1::IDEMPOTENCY_KEY).into());
    }
    run_idempotent(&keys, &caller, &request, &body, |key| {
        let (uploads, links, caller) = (uploads.clone(), links.clone(), caller.clone());
        async move {
            let mut created = new_uploads(&uploads, &links, &caller, wanted, key).await?;
            if is_batch {
                return CreatedResponse::new(None, &created);
            }
            let upload = created.pop().ok_or_else(|| Error::internal("an upload was not created"))?;
            CreatedResponse::new(Some(format!("{PREFIX}/files/{}", upload.uid)), &upload)
        }
    })
    .await
}

async fn new_uploads(
    uploads: &Arc<UploadOps>,
    links: &Links,
    caller: &Caller,
    requests: Vec<CreateUploadRequest>,
    key: Option<HeldIdempotencyKey>,
) -> Result<Vec<CreatedUpload>> {
    if !(1..=MAX_BATCH).contains(&requests.len()) {
        let message = format!("the body must be a JSON object, or an array of 1 to {MAX_BATCH} objects");
        return Err(Error::invalid(message));
    }
    let expire = requests.first().map_or(0, |first| first.expires_in);
    if requests.iter().any(|request| request.expires_in != expire) {
        let message = "`expires_in` must be the same for all uploads of a request";
        return Err(Error::invalid(message).with_field("expires_in"));
    }
    let (mut wanted, mut constraints) = (Vec::new(), Vec::new());
    for mut request in requests {
        constraints.push(upload_constraints(caller, request.size, request.constraints.take())?);
        wanted.push(upload_request(request)?);
    }
    let created = ops::create_upload::create_upload(uploads, caller, wanted, expire, key.as_ref()).await?;
    let period = LinkPeriod { date: created.created_at, lifetime_secs: expire };
    // The parameter `date` of a link has no fractions of a second, so the expiry has none either.
    let expires_at = created.created_at.unix_timestamp().saturating_add(expire).saturating_mul(1000);
    let render = |(upload, constraints): (NewUploadSession, LinkConstraints)| {
        let is_pending = upload.completed.is_none();
        CreatedUpload {
            uid: upload.uid.to_string(),
            state: match upload.completed {
                None => CreatedState::Pending,
                Some(FileState::Processing) => CreatedState::Processing,
                Some(_) => CreatedState::Stored,
            },
            part_size: upload.part_size.filter(|_| is_pending),
            links: is_pending.then(|| links.upload_links(upload.uid, period, &constraints)),
            expires_at: is_pending.then(|| format_time(expires_at)),
            challenge: upload
                .challenge
                .map(|challenge| render_challenge(links, upload.uid, period, &constraints, challenge)),
        }
    };
    Ok(created.uploads.into_iter().zip(constraints).map(render).collect())
}

/// Renders a challenge, together with the link to which the client sends the answer.
fn render_challenge(
    links: &Links,
    uid: Uid,
    period: LinkPeriod,
    constraints: &LinkConstraints,
    challenge: PossessionChallenge,
) -> v1::Challenge {
    let range = |range: Range<u64>| ByteRange { offset: range.start, length: range.end - range.start };
    v1::Challenge {
        key: hex::encode(challenge.nonce),
        ranges: challenge.ranges.into_iter().map(range).collect(),
        link: links.proof_link(uid, period, constraints),
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
        is_partial: false,
        object: None,
    };
    Ok(UploadRequest { path: request.name, announced, arrives_in_order: false })
}

/// `POST /uploads/{uid}/links`
#[utoipa::path(
    post, path = "/uploads/{uid}/links", context_path = PREFIX, tag = "Uploads", operation_id = "v1_create_upload_links",
    summary = "Create new links for an upload", description = "Creates links for an upload whose links have expired or are lost. Received parts are kept, and the upload stays open as long as the new links are valid. The constraints of earlier links do not apply to the new links; state them again.",
    params(
        openapi::UidPath,
    ),
    request_body(content = CreateUploadLinksRequest),
    security(("api_key" = ["upload"])),
    responses(
        (status = 201, description = "The new links.", body = CreatedUploadLinks),
        openapi::CommonErrors,
        openapi::FileErrors,
        openapi::JsonBodyErrors,
    )
)]
pub(crate) async fn create_upload_links(
    State(uploads): State<Arc<UploadOps>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<(StatusCode, Json<CreatedUploadLinks>)> {
    let uid = path::uid(uid)?;
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let CreateUploadLinksRequest { expires_in, constraints } =
        json::parse(&json::read(&request.headers, body).await?)?;
    let made = ops::create_upload_links::create_upload_links(&uploads, &caller, uid, expires_in, constraints)
        .await?;
    let answer = CreatedUploadLinks {
        uid: uid.to_string(),
        part_size: made.status.part_size,
        links: made.links,
        expires_at: format_time(made.expires_at),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `GET /uploads/{uid}`, with an upload link or an API key. If the request has any parameter of a
/// link, the API key is ignored.
#[utoipa::path(
    get, path = "/uploads/{uid}", context_path = PREFIX, tag = "Uploads", operation_id = "v1_upload_status",
    summary = "Get the status of an upload", description = "Requires an upload link or an API key. If the request has any parameter of a link, the API key is ignored.",
    params(
        openapi::UidPath,
        openapi::OptionalSignedQuery,
    ),
    security((), ("api_key" = ["upload"])),
    responses(
        (status = 200, description = "The status of the upload.", body = UploadStatus),
        openapi::CommonErrors,
        openapi::LinkErrors,
    )
)]
pub(crate) async fn upload_status(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    State(authenticator): State<Arc<Authenticator>>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<UploadStatus>> {
    let (request, _) = request.into_parts();
    if !upload_link::has_parameters(&request) {
        let caller = auth::authenticate(&authenticator, &request).await?;
        caller.require_scope(Scope::Upload)?;
        let uid = path::uid(uid)?;
        return Ok(render_status(
            uid,
            ops::upload_status::own_upload_status(&uploads, &caller.tenant, uid).await?,
        ));
    }
    let (uid, _) = upload_link::verify(&verifier, &path::parameters(uid)?, &request).await?;
    status(&uploads, uid).await
}

/// Returns the status of an upload.
pub(crate) async fn status(uploads: &UploadOps, uid: Uid) -> HandlerResult<Json<UploadStatus>> {
    Ok(render_status(uid, ops::upload_status::upload_status(uploads, uid).await?))
}

pub(super) fn render_status(uid: Uid, status: ops::upload_status::UploadProgress) -> Json<UploadStatus> {
    Json(UploadStatus {
        uid: uid.to_string(),
        state: match status.state {
            FileState::Pending => UploadState::Pending,
            FileState::Completing => UploadState::Completing,
            FileState::Processing => UploadState::Processing,
            FileState::Stored => UploadState::Stored,
            // This is `Receiving` or `Partial`: the operation `upload_status` fails for files in any other
            // state.
            _ => UploadState::Receiving,
        },
        size: status.size,
        part_size: status.part_size,
        parts: status.parts,
        received: status.received,
    })
}

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
        openapi::CommonErrors,
        openapi::LinkErrors,
        openapi::ContentBodyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn complete_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    State(forwarder): State<Forwarder>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, body) = request.into_parts();
    let (uid, constraints) = upload_link::verify(&verifier, &path::parameters(uid)?, &request).await?;
    if forward::request_source(&forwarder, &request)? == RequestSource::Client
        && let Some(store) = ops::choose_part_node::parts_elsewhere(&uploads, uid).await?
    {
        return Ok(forward::forward(
            &forwarder,
            RequestSource::Client,
            &store,
            Request::from_parts(request, body),
        )
        .await?);
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
    let request = CompleteRequest { parts: expected.parts, size: expected.size, expected: expected_digests };
    ops::complete_upload::complete_upload(&uploads, uid, request, &constraints).await?;
    Ok(status(&uploads, uid).await?.into_response())
}

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
        openapi::CommonErrors,
        openapi::LinkErrors,
        openapi::ContentBodyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn prove_possession(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    State(forwarder): State<Forwarder>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, body) = request.into_parts();
    let (uid, _) = upload_link::verify(&verifier, &path::parameters(uid)?, &request).await?;
    if forward::request_source(&forwarder, &request)? == RequestSource::Client
        && let Some(store) = ops::prove_possession::content_elsewhere(&uploads, uid).await?
    {
        return Ok(forward::forward(
            &forwarder,
            RequestSource::Client,
            &store,
            Request::from_parts(request, body),
        )
        .await?);
    }
    let ProofRequest { proof } = json::parse(&json::read(&request.headers, body).await?)?;
    let proof = digest::required_hex("proof", &proof)?;
    ops::prove_possession::prove_possession(&uploads, uid, proof).await?;
    Ok(status(&uploads, uid).await?.into_response())
}

/// `DELETE /uploads/{uid}`
#[utoipa::path(
    delete, path = "/uploads/{uid}", context_path = PREFIX, tag = "Uploads", operation_id = "v1_abort_upload",
    summary = "Abort an upload", description = "Deletes the upload and the parts that were received.",
    params(
        openapi::UidPath,
        openapi::SignedQuery,
    ),
    responses(
        (status = 204, description = "The upload and its parts are deleted."),
        (status = 409, response = openapi::Conflict),
        openapi::CommonErrors,
        openapi::LinkErrors,
    )
)]
pub(crate) async fn abort_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<StatusCode> {
    let (request, _) = request.into_parts();
    let (uid, _) = upload_link::verify(&verifier, &path::parameters(uid)?, &request).await?;
    ops::abort_upload::abort_upload(&uploads, uid).await?;
    Ok(StatusCode::NO_CONTENT)
}
