//! The header `Idempotency-Key`: POST requests with the same key take effect only once.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use osproxy_api::{
    ERROR_HEADER,
    v1::{IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, MAX_IDEMPOTENCY_KEY, PROBLEM, Problem},
};
use osproxy_core::{
    Caller, Error, HeldIdempotencyKey, IdempotencyKeys, IdempotencyOutcome, RecordedAnswer, RequestId, Result,
};
use osproxy_types::error_chain;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::problem;
use crate::respond::error::{ErrorContext, HandlerResult, v1_status};

/// Response to a request that created something.
pub(crate) struct CreatedResponse {
    /// URL of the new resource; `None` if the resource has no URL in the API.
    pub(crate) location: Option<String>,
    body: String,
}

impl CreatedResponse {
    /// Creates a response with a JSON body.
    pub(crate) fn new(location: Option<String>, body: &impl Serialize) -> Result<Self> {
        Ok(Self { location, body: serde_json::to_string(body).map_err(Error::internal)? })
    }

    fn into_recorded_answer(self) -> RecordedAnswer {
        RecordedAnswer { status: StatusCode::CREATED.as_u16(), location: self.location, body: self.body }
    }
}

/// Runs `work`, and returns its result with status 201. `work` runs to its end even if the client
/// disconnects.
///
/// With the header `Idempotency-Key`, the request takes effect only once: a request that repeats
/// the key gets the recorded response. 5xx errors are not recorded, so after such an error a
/// repeated request runs `work` again. `work` receives the key, and must use the uid in the key if
/// it creates a file.
pub(crate) async fn run_idempotent<W>(
    keys: &Arc<IdempotencyKeys>,
    caller: &Caller,
    request: &Parts,
    body: &[u8],
    work: impl FnOnce(Option<HeldIdempotencyKey>) -> W,
) -> HandlerResult<Response>
where
    W: Future<Output = Result<CreatedResponse>> + Send + 'static,
{
    let Some(key) = key(&request.headers)? else {
        let result = keys.detached_work.spawn(work(None)).await.map_err(Error::internal)?;
        return Ok(render(result?.into_recorded_answer()));
    };
    let key = match keys.acquire(caller, key, hash_request(request, body)).await? {
        IdempotencyOutcome::Held(key) => key,
        IdempotencyOutcome::Answered(recorded) => return Ok(render_replayed(recorded)),
    };
    let id = request.extensions.get::<RequestId>().map(|RequestId(id)| id.clone());
    // The request may succeed later, when another upload of the grant has ended.
    let records_errors = caller.grant().is_none();
    let (task_keys, work) = (keys.clone(), work(Some(key.clone())));
    let task = keys.detached_work.spawn(async move {
        let result = work.await;
        record_outcome(&task_keys, key, &result, records_errors, id.as_deref()).await;
        result
    });
    Ok(render(task.await.map_err(Error::internal)??.into_recorded_answer()))
}

/// Records the response under the key, or releases the key after an error that is not recorded: a 5xx
/// error, or any error unless `records_errors`. If this step fails, a
/// repeated request can take over the key after a minute.
async fn record_outcome(
    keys: &IdempotencyKeys,
    key: HeldIdempotencyKey,
    result: &Result<CreatedResponse>,
    records_errors: bool,
    request_id: Option<&str>,
) {
    let recorded = match result {
        Ok(created) => {
            let CreatedResponse { location, body } = created;
            let answer = RecordedAnswer {
                status: StatusCode::CREATED.as_u16(),
                location: location.clone(),
                body: body.clone(),
            };
            keys.record_answer(key, answer).await
        }
        Err(error) if !records_errors || v1_status(error).is_server_error() => keys.release(key).await,
        Err(error) => {
            let status = v1_status(error);
            let problem = problem::document(status, &ErrorContext { error, request_id });
            let body = serde_json::to_string(&problem).unwrap_or_default();
            keys.record_answer(key, RecordedAnswer { status: status.as_u16(), location: None, body }).await
        }
    };
    if let Err(error) = recorded {
        tracing::warn!(error = error_chain(&error), "cannot record the outcome of an idempotent request");
    }
}

/// Renders the recorded response to an earlier request with the same key.
pub(super) fn render_replayed(recorded: RecordedAnswer) -> Response {
    let mut response = render(recorded);
    let replayed = HeaderName::from_static(IDEMPOTENCY_REPLAYED);
    response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    response
}

pub(super) fn render(answer: RecordedAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let is_problem = !status.is_success();
    let code = is_problem.then(|| serde_json::from_str::<Problem>(&answer.body).ok()).flatten();
    let mut response = (status, Body::from(answer.body)).into_response();
    let headers = response.headers_mut();
    let content_type = if is_problem { PROBLEM } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(code) = code.and_then(|problem| HeaderValue::try_from(problem.code).ok()) {
        headers.insert(ERROR_HEADER, code);
    }
    if let Some(location) = answer.location.and_then(|location| HeaderValue::try_from(location).ok()) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// Returns the idempotency key of a request; `None` if the request has no key. Fails with
/// `InvalidArgument` if the key is invalid or repeated.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    let is_valid = (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())
        && key.as_bytes().iter().all(u8::is_ascii_graphic)
        && keys.next().is_none();
    match key.to_str() {
        Ok(key) if is_valid => Ok(Some(key)),
        _ => Err(Error::invalid(format!(
            "`Idempotency-Key` must be given once, with 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters"
        ))
        .with_field(IDEMPOTENCY_KEY)),
    }
}

/// Hashes a request. The length of each field precedes the field, so that different requests never
/// give the same input to the hash.
pub(super) fn hash_request(request: &Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let query = request.uri.query().unwrap_or_default();
    for field in [request.method.as_str().as_bytes(), request.uri.path().as_bytes(), query.as_bytes(), body] {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_given_once_in_visible_ascii() {
        let headers = |keys: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for key in keys {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(key).unwrap());
            }
            headers
        };
        assert_eq!(key(&headers(&[])).unwrap(), None);
        for valid in [&b"x"[..], b"!~", &[b'k'; 255]] {
            assert_eq!(key(&headers(&[valid])).unwrap().unwrap().as_bytes(), valid);
        }
        for invalid in [&[&b""[..]][..], &[b"a b"], &[&[b'k'; 256]], &[b"\xc3\xa9"], &[b"a", b"a"]] {
            assert!(key(&headers(invalid)).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn the_hash_covers_every_field_of_a_request() {
        let parts = |method: &str, path: &str| {
            axum::http::Request::builder().method(method).uri(path).body(()).unwrap().into_parts().0
        };
        let hashes = [
            hash_request(&parts("POST", "/a"), b"bc"),
            hash_request(&parts("POST", "/ab"), b"c"),
            hash_request(&parts("PUT", "/a"), b"bc"),
            hash_request(&parts("POST", "/a?b"), b"c"),
        ];
        for (at, one) in hashes.iter().enumerate() {
            assert!(!hashes[at + 1..].contains(one), "{at}");
        }
    }
}
