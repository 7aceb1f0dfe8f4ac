//! The access log. When a response has ended, the log gets one line, and the metrics count the
//! request.

use std::{
    fmt,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::Body,
    extract::MatchedPath,
    http::{Method, request::Parts},
    response::Response,
};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use osproxy_api::ERROR_HEADER;
use osproxy_cluster::trace_context;
use osproxy_core::{App, Error, LoadGuard, ProtocolOutcome, RequestId, Subject, metrics::RouteMetrics};
use osproxy_types::error_chain;
use tracing::Span;

/// Writes the lines of the access log.
pub trait AccessLog: fmt::Debug + Send + Sync {
    /// Writes a line. Must not block.
    fn write(&self, line: &AccessLine<'_>);
}

/// A line of the access log.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    /// Id of the request.
    pub request_id: &'a str,
    /// Method of the request.
    pub method: &'a str,
    /// Path template of the route; `none` if no route matched.
    pub route: &'a str,
    /// Path of the request, without the query.
    pub path: &'a str,
    /// The file that the request is about.
    pub uid: Option<u64>,
    /// Status of the response; `None` if the client disconnected before there was a response.
    pub status: Option<u16>,
    /// Error code in the response.
    pub error: Option<&'a str>,
    /// Message of the error, if this node responded with it.
    pub why: Option<&'a str>,
    /// Time from the head of the request to the end of the response, in microseconds.
    pub duration_us: u64,
    /// Bytes of the request body.
    pub bytes_received: u64,
    /// Bytes of the response body.
    pub bytes_sent: u64,
    /// Whether the client got the whole response.
    pub complete: bool,
    /// Address of the client.
    pub peer: Option<IpAddr>,
    /// Whether this is a successful health check. Health checks arrive every few seconds, and would
    /// hide the other lines: log them only at the level `debug`.
    pub is_health_check: bool,
}

/// The access log entry of a request. Written on drop, even if the client disconnects before there
/// is a response. Omits the query, which contains signatures.
pub(super) struct AccessLogEntry {
    log: Option<Arc<dyn AccessLog>>,
    id: RequestId,
    method: Method,
    path: String,
    uid: Option<u64>,
    /// Provides the uid if it is neither in the path nor in the query.
    subject: Subject,
    peer: Option<IpAddr>,
    received: Arc<AtomicU64>,
    started_at: Instant,
    span: Span,
    /// `None` until there is a response.
    status: Option<u16>,
    /// Error code in the response. If the request was forwarded, another node may have set the
    /// code.
    error: Option<String>,
    /// The error that this node responded with, if any.
    source_error: Option<Arc<Error>>,
    /// What an adapter of another protocol tells of its response.
    outcome: ProtocolOutcome,
    bytes_sent: u64,
    complete: bool,
    /// Metrics of the route. They also provide the path template of the route for the log.
    metrics: Arc<RouteMetrics>,
    /// Counts the request in the load of the node until the entry is written.
    _load: LoadGuard,
}

/// Maximum length of the path in a line, in characters. Longer paths are cut off.
const MAX_PATH: usize = 1024;

/// Header or trailer that holds the status of a gRPC call.
const GRPC_STATUS: &str = "grpc-status";

/// Prefix of the routes for health checks.
const HEALTH_ROUTES: &str = "/health/";

/// Route label of requests that match no route.
const NO_ROUTE: &str = "none";

impl AccessLogEntry {
    #[expect(clippy::too_many_arguments, reason = "there is one caller")]
    pub(super) fn new(
        app: &Arc<App>,
        log: Option<Arc<dyn AccessLog>>,
        id: RequestId,
        parts: &Parts,
        peer: Option<IpAddr>,
        received: Arc<AtomicU64>,
        started_at: Instant,
        span: Span,
    ) -> Self {
        let route = parts.extensions.get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str);
        let uid = uid(route, parts.uri.path(), parts.uri.query());
        trace_context::record_request(&span, parts.method.as_str(), route, uid);
        Self {
            log,
            id,
            method: parts.method.clone(),
            metrics: app.metrics.requests.route(route),
            path: parts.uri.path().chars().take(MAX_PATH).collect(),
            uid,
            subject: parts.extensions.get().cloned().unwrap_or_default(),
            peer,
            received,
            started_at,
            span,
            status: None,
            error: None,
            source_error: None,
            outcome: ProtocolOutcome::default(),
            bytes_sent: 0,
            complete: false,
            _load: LoadGuard::request(&app.node),
        }
    }

    /// Records the head of the response.
    pub(super) fn record_response(&mut self, app: &App, response: &mut Response) {
        self.outcome = response.extensions_mut().remove().unwrap_or_default();
        if let Some(operation) = &self.outcome.operation {
            self.metrics = app.metrics.requests.route(operation);
        }
        self.metrics.observe_response(self.started_at.elapsed());
        self.status = Some(response.status().as_u16());
        self.error =
            response.headers().get(ERROR_HEADER).and_then(|code| Some(code.to_str().ok()?.to_owned()));
        if let Some(error) = self.outcome.error.take() {
            self.error = Some(error);
        }
        self.source_error = response.extensions_mut().remove();
        if response.headers().contains_key(GRPC_STATUS)
            && let Some(error) = &self.source_error
        {
            // gRPC responses always have HTTP status 200. Log the status that this error has in API
            // v1.
            self.status = Some(error.code.v1_status());
        }
        self.complete = response.body().is_end_stream();
    }
}

/// Returns the uid in the path or the query of a request.
fn uid(route: &str, path: &str, query: Option<&str>) -> Option<u64> {
    let in_path = || route.split('/').zip(path.split('/')).find(|(name, _)| *name == "{uid}");
    let in_query = || {
        let mut query = form_urlencoded::parse(query?.as_bytes());
        Some(query.find(|(name, _)| name == "uid")?.1.into_owned())
    };
    let uid = in_path().map(|(_, uid)| uid.to_owned()).or_else(in_query)?;
    // Allow only digits: `parse` would accept a leading `+` too.
    uid.parse().ok().filter(|_| uid.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Drop for AccessLogEntry {
    fn drop(&mut self) {
        let duration_us = u64::try_from(self.started_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let bytes_received = self.received.load(Ordering::Relaxed);
        self.metrics.count_request(self.method.as_str(), self.status, bytes_received, self.bytes_sent);
        trace_context::record_response(&self.span, self.status, self.error.as_deref());
        let uid = self.uid.or_else(|| Some(self.subject.get()?.get().unsigned_abs()));
        let Some(log) = &self.log else { return };
        let route = self.metrics.template();
        log.write(&AccessLine {
            request_id: &self.id.0,
            method: self.method.as_str(),
            route,
            path: &self.path,
            uid,
            status: self.status,
            error: self.error.as_deref(),
            why: self.source_error.as_ref().map(|error| &*error.message).or(self.outcome.why.as_deref()),
            duration_us,
            bytes_received,
            bytes_sent: self.bytes_sent,
            complete: self.complete,
            peer: self.peer,
            is_health_check: route.starts_with(HEALTH_ROUTES) && self.status == Some(200),
        });
    }
}

/// A response body that counts its bytes. Writes the access log entry when it is dropped.
pub(super) struct LoggedBody {
    body: Body,
    entry: AccessLogEntry,
}

impl LoggedBody {
    pub(super) fn new(body: Body, entry: AccessLogEntry) -> Self {
        Self { body, entry }
    }
}

impl http_body::Body for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.entry.complete = true,
            Some(Ok(frame)) => {
                self.entry.bytes_sent += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                let grpc_status = frame.trailers_ref().and_then(|trailers| trailers.get(GRPC_STATUS));
                self.entry.complete = match grpc_status {
                    Some(status) => status == "0",
                    None => self.body.is_end_stream(),
                };
            }
            Some(Err(error)) => {
                let error = error_chain(error);
                self.entry.id.clone().sync_scope(|| tracing::error!(error, "the response was aborted"));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_is_a_number_in_the_path_or_the_query() {
        let uid_of = |path| uid("/f/{uid}/{filename}", path, Some("uid=3"));
        assert_eq!(uid_of("/f/12/x"), Some(12));
        for path in ["/f/x/12", "/f/-1/x", "/f/+1/x", "/f//x", "/f/1%0a/x", "/f/99999999999999999999/x"] {
            assert_eq!(uid_of(path), None, "{path}");
        }
        for (query, expected) in
            [("a=1&uid=7", Some(7)), ("uid=%37", Some(7)), ("uid=7%0A", None), ("uids=7", None)]
        {
            assert_eq!(uid("/x", "/x", Some(query)), expected, "{query}");
        }
        assert_eq!(uid("/tasks/{id}", "/tasks/5", None), None);
    }
}
