use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use osproxy_api::ErrorCode;

use super::Terms;
use crate::Error;

/// Most fields of a head: what hyper takes with HTTP/1. HTTP/2 has no such limit of its own.
const MAX_FIELDS: usize = 100;
/// What stands between name and value of a field, and behind them.
const PUNCTUATION: usize = 4;

/// Refuses requests whose head is too large. One that is much too large ends with the connection, before this.
pub(in crate::http) async fn head(State(terms): State<Arc<Terms>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + PUNCTUATION);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if headers.len() > MAX_FIELDS || target + fields.sum::<usize>() > terms.max_head {
        let max = terms.max_head;
        let message = format!("the head of a request has at most {max} bytes and {MAX_FIELDS} fields");
        return Error::new(ErrorCode::HeaderTooLarge, message).into_response();
    }
    next.run(request).await
}
