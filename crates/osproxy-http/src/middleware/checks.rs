//! Checks before a handler runs: rate, body and concurrency. One layer makes all of them, because
//! axum allocates and clones services for each layer.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    extract::Request,
    http::Method,
    response::{IntoResponse, Response},
};
use osproxy_core::Result;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    plain_body,
    request_limiter::{Concurrency, RequestLimiter, RequestPermits},
};
use crate::respond::error::Rejection;

/// Which bodies a group of routes rejects by their headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyCheck {
    /// None.
    None,
    /// Encoded and partial bodies.
    Plain,
    /// Encoded and partial bodies, and every body of GET, HEAD and DELETE.
    PlainAndExpected,
}

/// The checks of a group of routes. Also limits the rate of each address.
#[derive(Clone)]
pub(crate) struct RequestChecks {
    pub(crate) limiter: Arc<RequestLimiter>,
    pub(crate) body: BodyCheck,
    pub(crate) concurrency: Concurrency,
}

impl RequestChecks {
    fn check(&self, request: &Request) -> Result<RequestPermits> {
        self.limiter.check_rate(request)?;
        if self.body != BodyCheck::None {
            plain_body::check(request.headers())?;
        }
        if self.body == BodyCheck::PlainAndExpected
            && matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE)
        {
            plain_body::reject_body(request.headers())?;
        }
        self.limiter.acquire(self.concurrency, request.method())
    }
}

impl<S> Layer<S> for RequestChecks {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Checked<S> {
        Checked { checks: self.clone(), inner }
    }
}

/// A service behind checks.
#[derive(Clone)]
pub(crate) struct Checked<S> {
    checks: RequestChecks,
    inner: S,
}

impl<S> Service<Request> for Checked<S>
where
    S: Service<Request, Error = Infallible>,
    S::Response: IntoResponse,
{
    type Response = Response;
    type Error = Infallible;
    type Future = CheckedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.checks.check(&request) {
            Ok(permits) => CheckedFuture::Running { handler: self.inner.call(request), _permits: permits },
            Err(error) => CheckedFuture::Rejected { rejection: Some(Rejection(error)) },
        }
    }
}

pin_project! {
    /// Holds the permits of a request until the response begins.
    #[project = Projected]
    pub(crate) enum CheckedFuture<F> {
        Running { #[pin] handler: F, _permits: RequestPermits },
        Rejected { rejection: Option<Rejection> },
    }
}

impl<F, R> Future for CheckedFuture<F>
where
    F: Future<Output = std::result::Result<R, Infallible>>,
    R: IntoResponse,
{
    type Output = std::result::Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.project() {
            Projected::Running { handler, .. } => match ready!(handler.poll(cx)) {
                Ok(response) => response.into_response(),
                Err(never) => match never {},
            },
            Projected::Rejected { rejection } => match rejection.take() {
                Some(rejection) => rejection.into_response(),
                None => return Poll::Pending,
            },
        }))
    }
}
