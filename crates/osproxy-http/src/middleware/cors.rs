//! Cross-origin resource sharing (CORS).

use std::{convert::Infallible, future::ready};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, header},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use osproxy_api::{
    ERROR_HEADER,
    resumable::{COMPLETE, INCOMPLETE, INTEROP_VERSION, LIMIT},
    tus::{
        CHECKSUMS, CONCAT, DEFER_LENGTH, EXPIRES, EXTENSIONS, LENGTH, MAX_SIZE, METADATA, OFFSET, RESUMABLE,
        UID, VERSIONS,
    },
    v0,
    v1::{self, IDEMPOTENCY_REPLAYED},
};
use osproxy_core::REQUEST_ID;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::{
    resumable,
    settings::{Allowed, CorsSettings},
    tus,
};

const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Response headers that scripts of other origins may read, in addition to those that browsers
/// always allow.
const EXPOSED_HEADERS: [HeaderName; 27] = [
    header::ACCEPT_RANGES,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static(IDEMPOTENCY_REPLAYED),
    HeaderName::from_static(ERROR_HEADER),
    HeaderName::from_static(DEFER_LENGTH),
    HeaderName::from_static(EXPIRES),
    HeaderName::from_static(EXTENSIONS),
    HeaderName::from_static(LENGTH),
    HeaderName::from_static(MAX_SIZE),
    HeaderName::from_static(METADATA),
    HeaderName::from_static(OFFSET),
    HeaderName::from_static(RESUMABLE),
    HeaderName::from_static(UID),
    HeaderName::from_static(VERSIONS),
    HeaderName::from_static(CHECKSUMS),
    HeaderName::from_static(COMPLETE),
    HeaderName::from_static(INCOMPLETE),
    HeaderName::from_static(INTEROP_VERSION),
    HeaderName::from_static(LIMIT),
    HeaderName::from_static(CONCAT),
    REQUEST_ID,
];

/// Answers preflight requests, and adds CORS headers to responses.
pub(crate) struct Cors {
    layer: CorsLayer,
    /// Headers of the response to a request without `Origin`, which are always the same.
    without_origin: HeaderMap,
}

impl Cors {
    /// Returns `None` if no other origin is allowed.
    pub(crate) fn new(settings: &CorsSettings) -> Option<Self> {
        // Only `Origin` needs to be in `Vary`. Responses to preflight requests depend on more
        // headers, but caches do not store these responses.
        let (origins, vary) = match &settings.origins {
            Allowed::Any => (AllowOrigin::any(), None),
            Allowed::Only(origins) if origins.is_empty() => return None,
            Allowed::Only(origins) => (AllowOrigin::list(origins.clone()), Some(header::ORIGIN)),
        };
        let headers = match &settings.headers {
            // `*` would not allow `Authorization`.
            Allowed::Any => AllowHeaders::mirror_request(),
            Allowed::Only(names) => AllowHeaders::list(names.clone()),
        };
        let layer = CorsLayer::new().allow_origin(origins).allow_headers(headers).allow_methods(METHODS);
        let layer = layer.vary(vary.into_iter().collect::<Vec<_>>());
        let layer = layer.expose_headers(EXPOSED_HEADERS).max_age(settings.max_age);
        let empty = service_fn(|_: Request| ready(Ok::<Response, Infallible>(Response::default())));
        let response = layer.layer(empty).oneshot(Request::default()).now_or_never();
        let without_origin = response.and_then(Result::ok).map(|response| response.into_parts().0.headers);
        Some(Self { layer, without_origin: without_origin.unwrap_or_default() })
    }

    /// Applies CORS to the HTTP APIs and to links. Only pages of the same origin can read other
    /// paths, such as metrics and health.
    pub(super) async fn apply<F>(&self, request: Request, handler: impl Fn(Request) -> F) -> Response
    where
        F: Future<Output = Response>,
    {
        let path = request.uri().path();
        let is_below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        // The listener uses the path `*` for a request whose head could not be parsed.
        if path != "*" && ![v0::PREFIX, v1::PREFIX, v1::LINKS].into_iter().any(is_below) && !tus::is_tus(path)
        {
            return handler(request).await;
        }
        let (is_options, headers) = (request.method() == Method::OPTIONS, request.headers());
        // Without a requested method, OPTIONS asks for the supported extensions and limits of uploads.
        let describes_uploads = tus::is_tus(path) || resumable::is_upload_target(path);
        let is_preflight = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let is_for_uploads = is_options && describes_uploads && !is_preflight;
        if !is_for_uploads && (is_options || headers.contains_key(header::ORIGIN)) {
            let handler = service_fn(|request| handler(request).map(Ok::<_, Infallible>));
            return self.layer.layer(handler).oneshot(request).await.into_response();
        }
        let mut response = handler(request).await;
        response.headers_mut().extend(self.without_origin.clone());
        response
    }
}
