//! The outermost middleware: request id, client address, timeouts of the body, and access log.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body::Body as _;
use osproxy_api::ErrorCode;
use osproxy_cluster::trace_context;
use osproxy_core::{Error, REQUEST_ID, RequestId, Subject, events::EventSource};
use tracing::Instrument;

use super::{
    access_log::{AccessLogEntry, LoggedBody},
    body_timeouts::DrainOnDropBody,
    client_addr::client_addr,
    cors::Cors,
    request_head::check_head,
    security_headers::{insert_s3_security_headers, insert_security_headers},
};
use crate::{
    listener::{RemoteAddr, UnparsableHead},
    rate_check::MinRateCheck,
    respond::error::{ErrorRenderer, Rejection},
    settings::{HttpSettings, RenderS3Error},
    state::HttpState,
};

/// Header in which clients of the Go program send the request id.
const REQUEST_ID_V0: HeaderName = HeaderName::from_static("request-id");
/// Maximum length of a request id that a client sends, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// State of [`request_context`].
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) state: HttpState,
    pub(crate) cors: Option<Arc<Cors>>,
    /// Set on the listener of the S3 API.
    pub(crate) render_s3_error: Option<RenderS3Error>,
}

/// Assigns the request id and the client address, aborts bodies that arrive too slowly, checks the
/// head, renders errors, and adds CORS and security headers. Writes the access log entry when the
/// response has ended.
pub(crate) async fn request_context(
    State(Edge { state: HttpState { app, settings }, cors, render_s3_error }): State<Edge>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let id = client_request_id(request.headers()).unwrap_or_else(generate_request_id);
    let span = trace_context::request_span(&id.0, request.headers());
    let (mut parts, body) = request.into_parts();
    if parts.extensions.get::<UnparsableHead>().is_some()
        && let Some(origin) = settings.cors.first_origin()
    {
        // The head could not be parsed, so the origin of the request is unknown. Assume the first
        // allowed origin, so that pages of that origin can read the error.
        parts.headers.insert(header::ORIGIN, origin.clone());
    }
    let peer = parts.extensions.get::<RemoteAddr>().map(|peer| peer.0.ip());
    let client = peer.map(|peer| client_addr(peer, &parts.headers, &settings.trusted_proxies));
    let received = Arc::default();
    let body = if body.is_end_stream() {
        Body::empty()
    } else {
        let rate_check = MinRateCheck::new(settings.min_rate, settings.min_rate_window);
        let received = Arc::clone(&received);
        Body::new(DrainOnDropBody::new(body, &parts, settings.body_timeout, rate_check, received))
    };
    let address = client.map(|client| client.0);
    parts.extensions.insert(Subject::default());
    let log = settings.access_log.clone();
    let mut entry =
        AccessLogEntry::new(&app, log, id.clone(), &parts, address, received, start, span.clone());
    parts.extensions.insert(id.clone());
    if let Some(client) = client {
        parts.extensions.insert(client);
    }
    let version = parts.version;
    let source = if render_s3_error.is_some() { EventSource::S3 } else { event_source(parts.uri.path()) };
    let request = Request::from_parts(parts, body);

    let renderer = match render_s3_error {
        Some(render) => ErrorRenderer::for_s3(render),
        None => ErrorRenderer::new(&request, settings.render_grpc_error),
    };
    let response = respond(&settings, renderer, cors.as_deref(), &id, request, next);
    let response = source.scope(id.clone().scope(response.instrument(span)));
    let mut response = response.await;
    if let Ok(value) = HeaderValue::try_from(&*id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if render_s3_error.is_some() {
        insert_s3_security_headers(response.headers_mut(), settings.is_tls);
    } else {
        insert_security_headers(response.headers_mut(), settings.is_tls);
    }
    // While the node is draining, the next request of the client should reach another node. After a
    // timeout, the rest of the body may still arrive, so the connection cannot be reused.
    let error = response.extensions().get::<Arc<Error>>().map(|error| error.code);
    let is_broken = matches!(error, Some(ErrorCode::IncompleteBody | ErrorCode::Superseded));
    let must_close = app.node.is_draining() || is_broken || response.status() == StatusCode::REQUEST_TIMEOUT;
    if must_close && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    entry.record_response(&app, &mut response);
    response.map(|body| Body::new(LoggedBody::new(body, entry)))
}

/// Checks the head, runs the handler, renders its error, and applies CORS.
async fn respond(
    settings: &HttpSettings,
    renderer: ErrorRenderer,
    cors: Option<&Cors>,
    id: &RequestId,
    request: Request,
    next: Next,
) -> Response {
    // Boxed: callers move their futures, which would contain this one.
    let handler = |request: Request| {
        let next = next.clone();
        Box::pin(renderer.run(id, async {
            match check_head(settings, &request) {
                Ok(()) => next.run(request).await,
                Err(error) => Rejection(error).into_response(),
            }
        }))
    };
    match cors {
        Some(cors) => cors.apply(request, handler).await,
        None => handler(request).await,
    }
}

/// Returns the interface that a route belongs to.
fn event_source(path: &str) -> EventSource {
    let is_below =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_below(osproxy_api::v0::PREFIX) {
        EventSource::V0
    } else if is_below(osproxy_api::tus::PREFIX) {
        EventSource::Tus
    } else if path.starts_with(osproxy_api::grpc::PREFIX) {
        EventSource::Grpc
    } else {
        EventSource::V1
    }
}

/// Returns the request id that the client sent, if it is safe to log: visible ASCII of limited
/// length.
fn client_request_id(headers: &HeaderMap) -> Option<RequestId> {
    let value = headers.get(REQUEST_ID).or_else(|| headers.get(REQUEST_ID_V0))?;
    let id = value.to_str().ok()?;
    let is_valid = (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_valid.then(|| RequestId(id.into()))
}

/// Generates a request id from a random number of the process and a counter, so that no request
/// needs a system call.
fn generate_request_id() -> RequestId {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| {
        let mut bytes = [0; 8];
        // Without randomness, ids are still unique within this process.
        let _ = getrandom::fill(&mut bytes);
        u64::from_be_bytes(bytes)
    });
    static REQUESTS: AtomicU32 = AtomicU32::new(0);
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
    RequestId(format!("{:016x}{number:08x}", *PROCESS).into())
}
