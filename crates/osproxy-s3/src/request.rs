//! The way of a request through `s3s`.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use osproxy_core::{Error, ProtocolOutcome};
use osproxy_types::error_chain;
use s3s::{S3Result, service::S3Service};

use crate::{context::Context, errors, signature};

/// Authenticates a request and runs its operation.
pub(crate) async fn handle(service: S3Service, request: Request) -> Response {
    let context = Context::default();
    // Boxed, because the future of `s3s` is large.
    let response = context.clone().scope(Box::pin(respond(&service, &context, request))).await;
    let mut response = match response {
        Ok(response) => response,
        Err(error) => errors::render(&error),
    };
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    // `s3s` reports a body that it cannot read as an internal error.
    if is_error && let Some(error) = context.body_error() {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Arc::new(error.clone()));
        return response;
    }
    let mut outcome: ProtocolOutcome = response.extensions_mut().remove().unwrap_or_default();
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR && !context.is_logged() {
        tracing::error!(code = outcome.error, why = outcome.why, "the request failed");
    }
    errors::insert_request_id(response.headers_mut());
    outcome.operation = context.operation().map(str::to_owned);
    response.extensions_mut().insert(outcome);
    response
}

async fn respond(service: &S3Service, context: &Context, request: Request) -> S3Result<Response> {
    let (head, body) = request.into_parts();
    signature::check(&head)?;
    let noted = context.clone();
    let body = body.map_err(move |error| {
        if let Some(error) = find_error(&error) {
            noted.set_body_error(error.clone());
        }
        error
    });
    let request = axum::http::Request::from_parts(head, s3s::Body::http_body_unsync(body));
    let response = service.call(request).await.map_err(|error| {
        let error = s3s::StdError::from(error);
        tracing::error!(error = error_chain(&*error), "a response could not be written");
        context.set_logged();
        s3s::s3_error!(InternalError)
    })?;
    let (head, mut body) = response.into_parts();
    let is_error = head.status.is_client_error() || head.status.is_server_error();
    let Some(xml) = body.bytes().filter(|_| is_error) else {
        return Ok(Response::from_parts(head, Body::new(body)));
    };
    body.take_bytes();
    Ok(errors::complete(head, &xml))
}

/// Finds the error of the layer that reads the body from the connection.
fn find_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|cause| cause.downcast_ref())
}
