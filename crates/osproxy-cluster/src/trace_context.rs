//! Spans and trace context across nodes and services, for OpenTelemetry. While trace collection is
//! disabled, each function only loads a flag.

use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use opentelemetry::{
    KeyValue,
    propagation::TextMapPropagator,
    trace::{Status, TraceContextExt},
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Target of spans that appear only in traces. The log filters these spans out.
pub const TARGET: &str = "traces";

static COLLECTED: AtomicBool = AtomicBool::new(false);

/// Enables trace collection.
pub fn enable() {
    COLLECTED.store(true, Ordering::Relaxed);
}

fn is_enabled() -> bool {
    COLLECTED.load(Ordering::Relaxed)
}

/// Creates the span of a request. Attaches it to the trace in the `traceparent` header, if there is
/// such a header.
pub fn request_span(request_id: &str, headers: &HeaderMap) -> Span {
    if !is_enabled() {
        return Span::none();
    }
    let span = tracing::info_span!(target: TARGET, "request", request_id, otel.kind = "server");
    if headers.contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        // This fails only for a span that is in use already, and this one is new.
        let _ = span.set_parent(parent);
    }
    span
}

/// Writes the trace context of the current span into the headers of a request to another node.
pub fn inject_context(headers: &mut HeaderMap) {
    if is_enabled() {
        let context = Span::current().context();
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(headers));
    }
}

/// Records the method, route and uid of a request. Never records the query, which contains
/// signatures.
pub fn record_request(span: &Span, method: &str, route: &str, uid: Option<u64>) {
    if is_enabled() {
        let context = span.context();
        let traced = context.span();
        traced.update_name(format!("{method} {route}"));
        traced.set_attribute(KeyValue::new("http.request.method", method.to_owned()));
        traced.set_attribute(KeyValue::new("http.route", route.to_owned()));
        if let Some(uid) = uid {
            traced.set_attribute(KeyValue::new("osproxy.uid", uid.to_string()));
        }
    }
}

/// Records the status and error code of a response.
pub fn record_response(span: &Span, status: Option<u16>, error: Option<&str>) {
    if is_enabled() {
        let context = span.context();
        let traced = context.span();
        if let Some(status) = status {
            traced.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        if let Some(code) = error {
            traced.set_attribute(KeyValue::new("error.type", code.to_owned()));
        }
        if status.is_some_and(|status| status >= 500) {
            traced.set_status(Status::error(error.unwrap_or_default().to_owned()));
        }
    }
}

/// Creates a span for one attempt of a task.
pub fn task_span(kind: &str, task_id: i64, attempt: u32) -> Span {
    if !is_enabled() {
        return Span::none();
    }
    tracing::info_span!(target: TARGET, parent: None, "task", otel.name = format!("task {kind}"), task_id, kind, attempt)
}
