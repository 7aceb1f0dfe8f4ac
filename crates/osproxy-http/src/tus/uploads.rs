//! Uploads: create, append, ask for the offset, terminate.

use std::sync::Arc;

use axum::{
    body::HttpBody,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use osproxy_api::{
    ErrorCode,
    tus::{
        CHECKSUMS, CONTENT_TYPE, DEFER_LENGTH, EXPIRES, EXTENSIONS, LENGTH, MAX_SIZE, METADATA,
        METHOD_OVERRIDE, OFFSET, UID, VERSION, VERSIONS,
    },
};
use osproxy_cluster::Forwarder;
use osproxy_core::{
    Authenticator, Caller, Error, Result,
    links::{LinkPeriod, Links},
    ops::{
        self, FileOps, LinkConstraints, UploadOps,
        append_upload::{AppendSpec, UploadOffset},
        create_upload::{AnnouncedContent, UploadRequest},
    },
};
use osproxy_types::{scope::Scope, uid::Uid};

use super::{
    checksum,
    headers::{self, check_version, insert, text},
    metadata,
};
use crate::{
    extract::{auth, body, link::LinkVerifier, public_url, upload_creator::UploadCreator},
    forward::{self, RequestSource},
    respond::error::HandlerResult,
    state::HttpState,
    v1::{
        path::{self, PathResult},
        upload_link,
        uploads::MAX_GRANTED_LIFETIME_SECS,
    },
};

/// The extensions that are supported.
const SUPPORTED: &str = "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination";

/// Name of a file whose client does not send one.
const DEFAULT_NAME: &str = "file";

/// `OPTIONS`: the versions, extensions and limits.
pub(crate) async fn describe_protocol(State(uploads): State<Arc<UploadOps>>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    insert(headers, VERSIONS, &VERSION);
    insert(headers, EXTENSIONS, &SUPPORTED);
    insert(headers, MAX_SIZE, &uploads.max_size());
    insert(headers, CHECKSUMS, &checksum::ALGORITHMS);
    response
}

/// `POST /tus`: creates an upload, and stores the body as its first bytes.
pub(crate) async fn create_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(links): State<Arc<Links>>,
    State(HttpState { settings, .. }): State<HttpState>,
    UploadCreator(caller): UploadCreator,
    request: Request,
) -> HandlerResult<Response> {
    let (request, content) = request.into_parts();
    check_version(&request.headers)?;
    let size = headers::new_length(&request.headers)?;
    let checksum = checksum::from_headers(&request.headers)?;
    let upload = upload_request(&request.headers, size)?;
    if !content.is_end_stream() {
        check_content_type(&request.headers)?;
    }
    let mut lifetime = settings.tus_lifetime_secs;
    if caller.grant().is_some() {
        lifetime = lifetime.min(MAX_GRANTED_LIFETIME_SECS);
    }
    let created = ops::create_upload::create_upload(&uploads, &caller, vec![upload], lifetime, None).await?;
    let created_at = created.created_at;
    let upload = created.uploads.into_iter().next();
    let uid = upload.ok_or_else(|| Error::internal("an upload was not created"))?.uid;
    let mut constraints = caller.upload_constraints();
    constraints.shows_metadata |= caller.grant().is_none();
    let offset = if content.is_end_stream() && size != Some(0) {
        UploadOffset { offset: 0, size, is_complete: false }
    } else {
        let (size, content) = body::into_content(content);
        let spec = AppendSpec { offset: 0, size, ends_content: false, checksum, announced_size: None };
        ops::append_upload::append_new_upload(&uploads, uid, spec, constraints.clone(), content.boxed())
            .await?
    };
    let period = LinkPeriod { date: created_at, lifetime_secs: lifetime };
    let mut response = StatusCode::CREATED.into_response();
    let headers = response.headers_mut();
    let location = public_url::absolute(&settings, &request, links.tus_link(uid, period, &constraints));
    insert(headers, header::LOCATION.as_str(), &location);
    insert_offset(headers, uid, &offset);
    if !offset.is_complete {
        insert_expiry(headers, period.expires_at_secs());
    }
    Ok(response)
}

fn upload_request(headers: &HeaderMap, size: Option<u64>) -> Result<UploadRequest> {
    let metadata = metadata::parse(text(headers, METADATA)?.unwrap_or_default())?;
    let announced = AnnouncedContent {
        size,
        // Clients guess the type from the file name. A wrong one is not worth an error.
        content_type: metadata.content_type.filter(|given| ops::create_upload::is_mime_type(given)),
        metadata: metadata.pairs,
        ..AnnouncedContent::default()
    };
    let path = metadata.name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
    Ok(UploadRequest { path, announced, arrives_in_order: true })
}

fn check_content_type(headers: &HeaderMap) -> Result<()> {
    if headers.get(header::CONTENT_TYPE).is_some_and(|given| given.as_bytes() == CONTENT_TYPE.as_bytes()) {
        return Ok(());
    }
    let message = format!("the content type of the body must be `{CONTENT_TYPE}`");
    Err(Error::new(ErrorCode::UnsupportedMediaType, message))
}

/// The handles with which a request for an existing upload is authorized.
pub(crate) struct UploadAuthorizer {
    verifier: LinkVerifier,
    authenticator: Arc<Authenticator>,
    files: Arc<FileOps>,
}

impl axum::extract::FromRef<HttpState> for UploadAuthorizer {
    fn from_ref(state: &HttpState) -> Self {
        Self {
            verifier: LinkVerifier::from_ref(state),
            authenticator: Arc::from_ref(state),
            files: Arc::from_ref(state),
        }
    }
}

/// Returns the upload of a request, and its constraints. The request has an upload link, or an API
/// key of the tenant that owns the upload.
async fn authorize(
    authorizer: &UploadAuthorizer,
    uid: PathResult<String>,
    request: &Parts,
) -> Result<(Uid, LinkConstraints, Option<Caller>)> {
    let uid = path::parameters(uid)?;
    if upload_link::has_parameters(request) {
        let (uid, constraints) = upload_link::verify(&authorizer.verifier, &uid, request).await?;
        return Ok((uid, constraints, None));
    }
    let caller = auth::authenticate(&authorizer.authenticator, request).await?;
    caller.require_scope(Scope::Upload)?;
    let uid = path::parse_uid(&uid)?;
    ops::describe_file::describe_file(&authorizer.files, &caller.tenant, uid).await?;
    Ok((uid, caller.upload_constraints(), Some(caller)))
}

/// `POST /tus/{uid}`, for clients that cannot send other methods.
pub(crate) async fn override_method(
    uploads: State<Arc<UploadOps>>,
    forwarder: State<Forwarder>,
    authorizer: State<UploadAuthorizer>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let method = text(request.headers(), METHOD_OVERRIDE)?.map(str::as_bytes).map(Method::from_bytes);
    match method {
        Some(Ok(Method::PATCH)) => append_upload(uploads, forwarder, authorizer, uid, request).await,
        Some(Ok(Method::DELETE)) => abort_upload(uploads, authorizer, uid, request).await,
        Some(Ok(Method::HEAD)) => upload_offset(uploads, forwarder, authorizer, uid, request).await,
        _ => {
            let message = "POST needs the header `X-HTTP-Method-Override: PATCH`, `DELETE` or `HEAD`";
            Err(Error::new(ErrorCode::MethodNotAllowed, message).into())
        }
    }
}

/// `PATCH /tus/{uid}`: appends the body.
pub(crate) async fn append_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(forwarder): State<Forwarder>,
    State(authorizer): State<UploadAuthorizer>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, content) = request.into_parts();
    check_version(&request.headers)?;
    check_content_type(&request.headers)?;
    let offset = headers::offset(&request.headers)?;
    let length = headers::length(&request.headers)?;
    let checksum = checksum::from_headers(&request.headers)?;
    let (uid, constraints, _) = authorize(&authorizer, uid, &request).await?;
    if forward::request_source(&forwarder, &request)? == RequestSource::Client
        && let Some(store) = ops::choose_part_node::choose_part_node(&uploads, uid).await?
    {
        let request = Request::from_parts(request, content);
        return Ok(forward::forward(&forwarder, RequestSource::Client, &store, request).await?);
    }
    let (size, content) = body::into_content(content);
    let spec = AppendSpec { offset, size, ends_content: false, checksum, announced_size: length };
    let offset = ops::append_upload::append_upload(&uploads, uid, spec, constraints, content.boxed()).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    let expires_at = ops::append_upload::describe_upload(&uploads, uid).await?.expires_at;
    insert_offset(response.headers_mut(), uid, &offset);
    if !offset.is_complete {
        insert_expiry(response.headers_mut(), expires_at.div_euclid(1000));
    }
    Ok(response)
}

/// `HEAD /tus/{uid}`: where to continue.
pub(crate) async fn upload_offset(
    State(uploads): State<Arc<UploadOps>>,
    State(forwarder): State<Forwarder>,
    State(authorizer): State<UploadAuthorizer>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, _) = request.into_parts();
    check_version(&request.headers)?;
    let (uid, constraints, caller) = authorize(&authorizer, uid, &request).await?;
    let source = forward::request_source(&forwarder, &request)?;
    if source == RequestSource::Client
        && let Some(store) = ops::choose_part_node::parts_elsewhere(&uploads, uid).await?
    {
        return Ok(forward::forward_without_body(&forwarder, source, &store, &request).await?);
    }
    let offset = ops::append_upload::upload_offset(&uploads, uid, &constraints).await?;
    let upload = ops::append_upload::describe_upload(&uploads, uid).await?;
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    insert_offset(headers, uid, &offset);
    match offset.size {
        Some(size) => insert(headers, LENGTH, &size),
        None => insert(headers, DEFER_LENGTH, &1),
    }
    // An application may have set the metadata, which is not for the holders of its links.
    let shows_metadata =
        constraints.shows_metadata || caller.is_some_and(|caller| caller.has_scope(Scope::Read));
    if shows_metadata && let Some(metadata) = metadata::format(&upload.metadata) {
        insert(headers, METADATA, &metadata);
    }
    if !offset.is_complete {
        insert_expiry(headers, upload.expires_at.div_euclid(1000));
    }
    Ok(response)
}

/// `DELETE /tus/{uid}`: ends an upload. A complete file is deleted only with an API key that has
/// the scope `delete`.
pub(crate) async fn abort_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(authorizer): State<UploadAuthorizer>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, _) = request.into_parts();
    check_version(&request.headers)?;
    let (uid, _, caller) = authorize(&authorizer, uid, &request).await?;
    match (ops::abort_upload::abort_upload(&uploads, uid).await, caller) {
        (Err(error), Some(caller)) if error.code == ErrorCode::AlreadyStored => {
            caller.require_scope(Scope::Delete)?;
            ops::delete_file::delete_file(&authorizer.files, &caller.tenant, uid).await?;
        }
        (aborted, _) => aborted?,
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Adds the offset, and the uid.
fn insert_offset(headers: &mut HeaderMap, uid: Uid, offset: &UploadOffset) {
    insert(headers, OFFSET, &offset.offset);
    insert(headers, UID, &uid);
}

/// Adds the time when the upload expires, in seconds since the Unix epoch.
fn insert_expiry(headers: &mut HeaderMap, expires_at: i64) {
    let seconds = std::time::Duration::from_secs(u64::try_from(expires_at).unwrap_or(0));
    insert(headers, EXPIRES, &httpdate::fmt_http_date(std::time::UNIX_EPOCH + seconds));
}
