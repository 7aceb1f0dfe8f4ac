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
    response::Response,
};
use tracing::Instrument;

use super::{
    Terms,
    access_log::{AccessLine, LoggedBody},
    harden::harden,
    linger::LingeringBody,
};
use crate::{
    app::{App, ClientAddr, REQUEST_ID, RequestId, Subject},
    http::server::{Peer, Unreadable},
    traces,
};

/// What clients of the Go program send.
const REQUEST_ID_V0: HeaderName = HeaderName::from_static("request-id");
/// Longest id that is taken from a client, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Gives the request an id, finds out whose it is, breaks its body off when its sender is too slow, counts its bytes, and
/// writes one line when its answer has ended.
pub(in crate::http) async fn request(
    State((app, terms)): State<(Arc<App>, Arc<Terms>)>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let id = from_client(request.headers()).unwrap_or_else(fresh);
    let span = tracing::info_span!("request", request_id = &*id.0, otel.kind = tracing::field::Empty);
    traces::go_on(&span, request.headers());
    let (mut parts, body) = request.into_parts();
    if parts.extensions.get::<Unreadable>().is_some()
        && let Some(origin) = &terms.origin
    {
        // With one page that may use the service, it is that.
        parts.headers.insert(header::ORIGIN, origin.clone());
    }
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
    let client = peer.map(|peer| ClientAddr::of(peer, &parts.headers, &terms.trusted));
    let body = LingeringBody::new(body, (parts.version, &parts.headers), terms.body_timeout, terms.pace);
    let address = client.map(|client| client.0);
    parts.extensions.insert(Subject::default());
    let mut line = AccessLine::new(&app, &parts, address, body.received(), (start, span.clone()));
    parts.extensions.insert(id.clone());
    if let Some(client) = client {
        parts.extensions.insert(client);
    }
    let version = parts.version;
    let request = Request::from_parts(parts, Body::new(body));

    let mut response = next.run(request).instrument(span).await;
    if let Ok(value) = HeaderValue::try_from(&*id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    harden(response.headers_mut(), terms.secure);
    // The next request is to find another node; after a request that did not end there is none.
    let is_last = app.is_draining() || response.status() == StatusCode::REQUEST_TIMEOUT;
    if is_last && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    line.answered(&mut response);
    response.map(|body| Body::new(LoggedBody::new(body, line)))
}

/// The client's own id, if it is one that can stand in a log: visible ASCII, not endless.
fn from_client(headers: &HeaderMap) -> Option<RequestId> {
    let value = headers.get(REQUEST_ID).or_else(|| headers.get(REQUEST_ID_V0))?;
    let id = value.to_str().ok()?;
    let fits = (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| RequestId(id.into()))
}

/// A number of its own for every request, behind a number for this process: no system call a request.
fn fresh() -> RequestId {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| {
        let mut bytes = [0; 8];
        // Ids tell requests apart; without randomness those of different processes are merely alike.
        let _ = getrandom::fill(&mut bytes);
        u64::from_be_bytes(bytes)
    });
    static REQUESTS: AtomicU32 = AtomicU32::new(0);
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
    RequestId(format!("{:016x}{number:08x}", *PROCESS).into())
}
