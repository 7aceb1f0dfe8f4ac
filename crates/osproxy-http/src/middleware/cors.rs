//! Cross-origin resource sharing (CORS).

use axum::{
    extract::{Request, State},
    http::{HeaderName, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use osproxy_api::{
    ERROR_HEADER, v0,
    v1::{self, IDEMPOTENCY_REPLAYED},
};
use osproxy_core::REQUEST_ID;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::settings::{Allowed, CorsSettings};

const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Response headers that scripts of other origins may read, in addition to those that browsers
/// always allow.
const EXPOSED_HEADERS: [HeaderName; 11] = [
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
    REQUEST_ID,
];

/// Builds the layer that answers preflight requests and adds CORS headers to responses. Returns
/// `None` if no other origin is allowed.
pub(crate) fn layer(settings: &CorsSettings) -> Option<CorsLayer> {
    // Only `Origin` needs to be in `Vary`. Responses to preflight requests depend on more headers,
    // but caches do not store these responses.
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
    Some(layer.expose_headers(EXPOSED_HEADERS).max_age(settings.max_age))
}

/// Applies CORS to the HTTP APIs and to links. Only pages of the same origin can read other paths,
/// such as metrics and health.
pub(crate) async fn apply_to_api(State(cors): State<CorsLayer>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    // The listener uses the path `*` for a request whose head could not be parsed.
    if path == "*" || [v0::PREFIX, v1::PREFIX, v1::LINKS].into_iter().any(is_below) {
        cors.layer(next).oneshot(request).await.into_response()
    } else {
        next.run(request).await
    }
}
