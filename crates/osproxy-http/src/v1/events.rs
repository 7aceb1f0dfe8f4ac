//! Events: a page of them as JSON, or a stream of Server-Sent Events.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt, stream};
use osproxy_api::v1::{DEFAULT_PAGE, EventType, Events, MAX_EVENTS, PREFIX};
use osproxy_core::{
    Authenticator, Caller, Error, Result,
    events::{Event, EventOps, EventWatch, parse_kinds},
    ops,
};

use super::{query::Query, time_format::format_time};
use crate::{
    extract::auth::{Authenticated, Read},
    openapi,
    respond::error::HandlerResult,
};

const EVENT_STREAM: &str = "text/event-stream";

/// Header in which a client that reconnects sends the id of the last event that it has received.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells nginx not to buffer a response.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How often a stream without events sends its position, so that proxies keep the connection open and
/// the end of the connection is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// `GET /events`
#[utoipa::path(
    get, path = "/events", context_path = PREFIX, tag = "Events", operation_id = "v1_list_events",
    summary = "List or follow events", description = "What happened to files, oldest first. With the header `Accept: text/event-stream`, the response is a stream of Server-Sent Events that does not end: it starts after `Last-Event-ID` or `after`, or else with the next event.",
    params(
        ("after" = Option<String>, Query, description = "Only events after the one with this id; 0: from the oldest one. Defaults to 0; for a stream, to the newest event.", pattern = "^(0|[1-9][0-9]{0,17})$", example = "0"),
        ("types" = Option<Vec<EventType>>, Query, description = "Only events of these types, separated by commas.", explode = false, min_items = 1, example = json!(["file.completed", "file.deleted"])),
        ("limit" = Option<u64>, Query, description = "Maximum number of events on the page.", minimum = 1, maximum = 200, example = 100),
    ),
    security(("api_key" = ["read"])),
    responses(
        (status = 200, description = "A page of events, or a stream.", content((Events = "application/json"), (String = "text/event-stream"))),
        openapi::CommonErrors,
        (status = 410, response = openapi::Gone),
    )
)]
pub(crate) async fn list_events(
    State(events): State<Arc<EventOps>>,
    State(authenticator): State<Arc<Authenticator>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    request: Request,
) -> HandlerResult<Response> {
    let query = Query::parse(request.uri().query(), &["after", "types", "limit"])?;
    let after = query.get("after").map(|text| parse_id("after", text)).transpose()?;
    let limit = limit(&query)?;
    let kinds =
        query.get("types").map(|types| parse_kinds(types.split(','))).transpose()?.unwrap_or_default();
    if accepts_stream(request.headers()) {
        let after = match request.headers().get(LAST_EVENT_ID) {
            Some(last) => Some(parse_id("Last-Event-ID", last.to_str().unwrap_or_default())?),
            None => after,
        };
        let watch = ops::watch_events::watch_events(&events, &caller.tenant, kinds, after).await?;
        return Ok(event_stream(watch, authenticator, caller));
    }
    let page =
        ops::list_events::list_events(&events, &caller.tenant, kinds, after.unwrap_or(0), limit).await?;
    let events: Vec<_> = page.events.iter().map(render_event).collect();
    let (events, next, has_more) = (events.join(","), page.position, page.has_more);
    let json = format!(r#"{{"events":[{events}],"next":"{next}","has_more":{has_more}}}"#);
    let content_type = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, content_type)], json).into_response())
}

/// Whether the client prefers a stream: browsers send exactly this media type.
fn accepts_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut ranges = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    ranges.next().is_some_and(|first| first.eq_ignore_ascii_case(EVENT_STREAM))
}

fn parse_id(name: &'static str, text: &str) -> Result<i64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let invalid = || Error::invalid(format!("`{name}` must be the id of an event, or 0")).with_field(name);
    text.parse().ok().filter(|_| is_number).ok_or_else(invalid)
}

fn limit(query: &Query<'_>) -> Result<u64> {
    let Some(text) = query.get("limit") else {
        return Ok(DEFAULT_PAGE);
    };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| is_number && (1..=MAX_EVENTS).contains(limit));
    limit.ok_or_else(|| Error::invalid(format!("`limit` must be 1 to {MAX_EVENTS}")).with_field("limit"))
}

/// Renders an event as [`osproxy_api::v1::Event`]. The payload is JSON already.
fn render_event(event: &Event) -> String {
    let Event { position, kind, created_at, payload, .. } = event;
    let created_at = format_time(*created_at);
    format!(r#"{{"id":"{position}","type":"{kind}","created_at":"{created_at}","data":{payload}}}"#)
}

fn event_stream(watch: EventWatch, authenticator: Arc<Authenticator>, caller: Caller) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(chunks(watch, authenticator, caller))).into_response()
}

/// The chunks of a stream. Ends when the API key is revoked, the node stops, or the events cannot be
/// read. The client then reconnects, and learns the reason.
fn chunks(
    watch: EventWatch,
    authenticator: Arc<Authenticator>,
    caller: Caller,
) -> impl Stream<Item = std::result::Result<Bytes, Infallible>> {
    // After a lost connection, the client waits for a second.
    let preamble = format!("retry: 1000\n{}", render_position(&watch));
    let preamble = stream::iter([Ok(Bytes::from(preamble))]);
    // One future for the whole stream: it looks at the key only from time to time.
    let revoked = Box::pin(async move { authenticator.wait_for_revocation(&caller).await });
    let events = stream::unfold((watch, revoked), |(mut watch, mut revoked)| async {
        let events = tokio::select! {
            biased;
            _ = &mut revoked => return None,
            events = watch.next(HEARTBEAT) => events,
        };
        let events = match events {
            Ok(events) => events?,
            Err(error) => {
                tracing::warn!(error = %error, "cannot read events for a stream");
                return None;
            }
        };
        let chunk = if events.is_empty() { render_position(&watch) } else { render_events(&events) };
        Some((Ok(chunk.into()), (watch, revoked)))
    });
    preamble.chain(events)
}

/// A block without data. The client continues from this position if the connection is lost.
fn render_position(watch: &EventWatch) -> String {
    format!("id: {}\n\n", watch.position())
}

fn render_events(events: &[Event]) -> String {
    let mut chunk = String::new();
    for event in events {
        let (id, kind) = (event.position, &event.kind);
        let _ = write!(chunk, "id: {id}\nevent: {kind}\ndata: {}\n\n", render_event(event));
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_sent_only_to_clients_that_ask_for_it_first() {
        let accepts = |accept: &'static str| {
            accepts_stream(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(!accepts_stream(&HeaderMap::new()));
        for stream in ["text/event-stream", "Text/Event-Stream; q=1", "text/event-stream, application/json"] {
            assert!(accepts(stream), "{stream}");
        }
        for json in ["*/*", "application/json", "application/json, text/event-stream"] {
            assert!(!accepts(json), "{json}");
        }
    }
}
