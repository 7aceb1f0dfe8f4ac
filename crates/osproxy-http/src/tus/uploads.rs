//! Uploads: create, append, ask for the offset, terminate.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody},
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
        concatenate_uploads::Concatenation,
        create_upload::{AnnouncedContent, UploadRequest},
    },
};
use osproxy_types::{scope::Scope, uid::Uid};

use super::{
    checksum,
    concatenation::{self, Concat, FinalCreation},
    headers::{self, check_version, insert, text},
    metadata,
};
use crate::{
    extract::{auth, body, link::LinkVerifier, public_url, upload_creator::UploadCreator},
    forward::{self, RequestSource},
    respond::error::HandlerResult,
    resumable::{self, Draft, UploadLimits},
    state::HttpState,
    v1::{
        path::{self, PathResult},
        upload_link,
        uploads::MAX_GRANTED_LIFETIME_SECS,
    },
};

/// The extensions that are supported.
const SUPPORTED: &str =
    "creation,creation-with-upload,creation-defer-length,checksum,concatenation,expiration,termination";

/// Name of a file whose client does not send one.
pub(crate) const DEFAULT_NAME: &str = "file";

/// `OPTIONS`: the versions, extensions and limits.
pub(crate) async fn describe_protocol(State(uploads): State<Arc<UploadOps>>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    insert(headers, VERSIONS, &VERSION);
    insert(headers, EXTENSIONS, &SUPPORTED);
    insert(headers, MAX_SIZE, &uploads.max_size());
    insert(headers, CHECKSUMS, &checksum::ALGORITHMS);
    resumable::describe_limits(headers, uploads.max_size());
    response
}

/// `POST /tus`: creates an upload, and stores the body as its first bytes.
pub(crate) async fn create_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(links): State<Arc<Links>>,
    State(HttpState { settings, .. }): State<HttpState>,
    State(forwarder): State<Forwarder>,
    State(authorizer): State<UploadAuthorizer>,
    UploadCreator(caller): UploadCreator,
    request: Request,
) -> HandlerResult<Response> {
    let (request, content) = request.into_parts();
    let mut lifetime = settings.tus_lifetime_secs;
    if caller.grant().is_some() {
        lifetime = lifetime.min(MAX_GRANTED_LIFETIME_SECS);
    }
    let draft = Draft::from_headers(&request.headers);
    let concat = match draft {
        Some(_) => None,
        None => concatenation::from_headers(&request.headers)?,
    };
    if let Some(Concat::Final(urls)) = &concat {
        let partial_uids = concatenation::authorize(&authorizer.verifier, urls, &caller, &request).await?;
        let upload = parse_final_creation(&request.headers, &content)?;
        let creation = FinalCreation { uploads, links, forwarder, settings, caller, lifetime };
        return creation.run(upload, partial_uids, request).await;
    }
    let (mut upload, spec) = match draft {
        Some(draft) => draft.creation(&request.headers, body::size(&content), content.is_end_stream())?,
        None => parse_creation(&request.headers, &content)?,
    };
    upload.announced.is_partial = concat.is_some();
    let role = concat.map(|_| Concatenation::Partial);
    if role.is_some()
        && !content.is_end_stream()
        && forward::request_source(&forwarder, &request)? == RequestSource::Client
        && let Some(store) = ops::choose_part_node::partial_uploads_elsewhere(&uploads, &caller.tenant).await
    {
        let request = Request::from_parts(request, content);
        return Ok(forward::forward(&forwarder, RequestSource::Client, &store, request).await?);
    }
    let size = upload.announced.size;
    let mut constraints = caller.upload_constraints();
    constraints.shows_metadata |= caller.grant().is_none();
    let max_size = uploads.max_size_within(&constraints);
    let explain = |error| match draft {
        Some(_) => resumable::explain_error(error, 0, max_size),
        None => error,
    };
    let created = ops::create_upload::create_upload(&uploads, &caller, vec![upload], lifetime, None).await;
    let created = created.map_err(explain)?;
    let created_at = created.created_at;
    let upload = created.uploads.into_iter().next();
    let uid = upload.ok_or_else(|| Error::internal("an upload was not created"))?.uid;
    let period = LinkPeriod { date: created_at, lifetime_secs: lifetime };
    let location = public_url::absolute(&settings, &request, links.tus_link(uid, period, &constraints));
    let limits = UploadLimits { max_size, expires_at: Some(period.expires_at_secs()) };
    let is_announced = draft.is_some_and(|draft| draft.announce(&request, &location, limits));
    let ends_content = spec.as_ref().is_some_and(|spec| spec.ends_content);
    let offset = match spec {
        None => UploadOffset { offset: 0, size, is_complete: false },
        Some(spec) => {
            let (_, content) = body::into_content(content);
            let appended = if is_announced {
                ops::append_upload::append_announced_upload(&uploads, uid, spec, constraints, content.boxed())
                    .await
            } else {
                ops::append_upload::append_new_upload(&uploads, uid, spec, constraints, content.boxed()).await
            };
            appended.map_err(explain)?
        }
    };
    let mut response = match draft {
        Some(draft) => draft.render_appended(&uploads, uid, ends_content).await?,
        None => Response::default(),
    };
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    insert(headers, header::LOCATION.as_str(), &location);
    insert_offset(headers, uid, &offset);
    concatenation::insert_role(headers, role.as_ref());
    match draft {
        Some(draft) => draft.insert_limits(headers, limits),
        None if !offset.is_complete => insert_expiry(headers, period.expires_at_secs()),
        None => {}
    }
    Ok(response)
}

/// Checks a request for a final upload, whose content is that of its partial uploads.
fn parse_final_creation(headers: &HeaderMap, content: &Body) -> Result<UploadRequest> {
    check_version(headers)?;
    concatenation::check_no_length(headers)?;
    if !content.is_end_stream() {
        return Err(Error::invalid("a request for a final upload must not have a body"));
    }
    upload_request(headers, None)
}

/// Parses a request of tus that creates an upload. Also returns what to append to the new upload.
fn parse_creation(headers: &HeaderMap, content: &Body) -> Result<(UploadRequest, Option<AppendSpec>)> {
    check_version(headers)?;
    let announced = headers::new_length(headers)?;
    let checksum = checksum::from_headers(headers)?;
    let upload = upload_request(headers, announced)?;
    let is_empty = content.is_end_stream();
    if !is_empty {
        check_content_type(headers)?;
    }
    let size = body::size(content);
    let spec = AppendSpec { offset: 0, size, ends_content: false, checksum, announced_size: None };
    // An upload of no bytes is complete when it is created.
    Ok((upload, (!is_empty || announced == Some(0)).then_some(spec)))
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
    let draft = Draft::from_headers(&request.headers);
    let spec = match draft {
        Some(draft) => draft.append(&request.headers, body::size(&content))?,
        None => parse_append(&request.headers, &content)?,
    };
    let (uid, constraints, _) = authorize(&authorizer, uid, &request).await?;
    if forward::request_source(&forwarder, &request)? == RequestSource::Client
        && let Some(store) = ops::choose_part_node::choose_part_node(&uploads, uid).await?
    {
        let request = Request::from_parts(request, content);
        return Ok(forward::forward(&forwarder, RequestSource::Client, &store, request).await?);
    }
    let max_size = uploads.max_size_within(&constraints);
    let (_, content) = body::into_content(content);
    let appending =
        ops::append_upload::append_upload(&uploads, uid, spec.clone(), constraints, content.boxed());
    let offset = match (appending.await, draft) {
        (Err(error), Some(_)) => {
            return Err(resumable::end_after_error(&uploads, uid, &spec, error, max_size).await.into());
        }
        (appended, _) => appended?,
    };
    let mut response = match draft {
        Some(draft) => draft.render_appended(&uploads, uid, spec.ends_content).await?,
        None => StatusCode::NO_CONTENT.into_response(),
    };
    let upload = ops::append_upload::describe_upload(&uploads, uid).await?;
    let expires_at = upload.expires_at.div_euclid(1000);
    let headers = response.headers_mut();
    insert_offset(headers, uid, &offset);
    concatenation::insert_role(headers, upload.concatenation.as_ref());
    match draft {
        Some(draft) => {
            draft.insert_limits(headers, UploadLimits { max_size, expires_at: Some(expires_at) });
        }
        None if !offset.is_complete => insert_expiry(headers, expires_at),
        None => {}
    }
    Ok(response)
}

/// Parses a request of tus that appends.
fn parse_append(headers: &HeaderMap, content: &Body) -> Result<AppendSpec> {
    check_version(headers)?;
    check_content_type(headers)?;
    Ok(AppendSpec {
        offset: headers::offset(headers)?,
        size: body::size(content),
        ends_content: false,
        checksum: checksum::from_headers(headers)?,
        announced_size: headers::length(headers)?,
    })
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
    let draft = check_bodiless(&request.headers)?;
    let (uid, constraints, caller) = authorize(&authorizer, uid, &request).await?;
    let source = forward::request_source(&forwarder, &request)?;
    if source == RequestSource::Client
        && let Some(store) = ops::choose_part_node::parts_elsewhere(&uploads, uid).await?
    {
        return Ok(forward::forward_without_body(&forwarder, source, &store, &request).await?);
    }
    let offset = ops::append_upload::upload_offset(&uploads, uid, &constraints).await?;
    let upload = ops::append_upload::describe_upload(&uploads, uid).await?;
    let expires_at = Some(upload.expires_at.div_euclid(1000)).filter(|_| !offset.is_complete);
    if let Some(draft) = draft {
        let max_size = uploads.max_size_within(&constraints);
        let mut response = draft.render_offset(&offset, UploadLimits { max_size, expires_at });
        insert_offset(response.headers_mut(), uid, &offset);
        return Ok(response);
    }
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    insert_offset(headers, uid, &offset);
    concatenation::insert_role(headers, upload.concatenation.as_ref());
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
    if let Some(expires_at) = expires_at {
        insert_expiry(headers, expires_at);
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
    check_bodiless(&request.headers)?;
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

/// Checks the headers of a request without a body. Returns how it uses the draft, if it does.
fn check_bodiless(headers: &HeaderMap) -> Result<Option<Draft>> {
    let draft = Draft::from_headers(headers);
    match draft {
        Some(draft) => draft.check_bodiless(headers)?,
        None => check_version(headers)?,
    }
    Ok(draft)
}

/// Adds the offset, and the uid.
pub(super) fn insert_offset(headers: &mut HeaderMap, uid: Uid, offset: &UploadOffset) {
    insert(headers, OFFSET, &offset.offset);
    insert(headers, UID, &uid);
}

/// Adds the time when the upload expires, in seconds since the Unix epoch.
fn insert_expiry(headers: &mut HeaderMap, expires_at: i64) {
    let seconds = std::time::Duration::from_secs(u64::try_from(expires_at).unwrap_or(0));
    insert(headers, EXPIRES, &httpdate::fmt_http_date(std::time::UNIX_EPOCH + seconds));
}
