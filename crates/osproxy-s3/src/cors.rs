//! CORS: answers preflight requests, and tells browsers which pages may read a response.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts, uri::Authority,
    },
    middleware::Next,
    response::Response,
};
use osproxy_core::{
    App,
    buckets::cors::{CorsGrant, METHODS, find_rule},
    ops::buckets::{KnownBucket, cached_bucket, known_bucket},
};
use s3s::S3Result;

use crate::{
    errors::{self, custom, to_s3},
    host::Domain,
};

/// What responses of buckets with CORS rules depend on.
const VARY: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Headers, Access-Control-Request-Method");

/// Applies the CORS rules of buckets.
pub(crate) struct Cors {
    app: Arc<App>,
    domain: Domain,
}

impl Cors {
    pub(crate) fn new(app: Arc<App>, domain: Domain) -> Self {
        Self { app, domain }
    }

    /// Answers `OPTIONS`. Says the same for a bucket without rules as for one that does not exist.
    pub(crate) async fn preflight(&self, request: &Parts) -> Response {
        match self.answer(request).await {
            Ok(headers) => {
                let mut response = Response::default();
                *response.headers_mut() = headers;
                response
            }
            Err(error) => errors::render(&error),
        }
    }

    async fn answer(&self, request: &Parts) -> S3Result<HeaderMap> {
        let headers = &request.headers;
        let origin = headers.get(header::ORIGIN).filter(|origin| origin.to_str().is_ok());
        let origin = origin.ok_or_else(|| {
            let message = "Insufficient information. Origin request header needed.";
            custom("BadRequest", StatusCode::BAD_REQUEST, message)
        })?;
        let method = text(headers, &header::ACCESS_CONTROL_REQUEST_METHOD).unwrap_or("null");
        if !METHODS.contains(&method) {
            let message = format!("Invalid Access-Control-Request-Method: {method}");
            return Err(custom("BadRequest", StatusCode::BAD_REQUEST, message));
        }
        let wanted = text(headers, &header::ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
        let wanted: Vec<_> = wanted.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let forbidden = |message| custom("AccessForbidden", StatusCode::FORBIDDEN, message);
        let bucket = self.bucket(request).await?.filter(|bucket| !bucket.cors.is_empty());
        let bucket = bucket.ok_or_else(|| forbidden("CORSResponse: CORS is not enabled for this bucket."))?;
        let grant = find_rule(&bucket.cors, origin.to_str().unwrap_or_default(), method, &wanted);
        let grant = grant.ok_or_else(|| {
            forbidden(
                "CORSResponse: This CORS request is not allowed. This is usually because the evaluation of \
                 Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are \
                 not whitelisted by the resource's CORS spec.",
            )
        })?;
        let mut allowed = grant_headers(grant, origin);
        if !wanted.is_empty() {
            insert(&mut allowed, header::ACCESS_CONTROL_ALLOW_HEADERS, &wanted.join(", ").to_lowercase());
        }
        if let Some(age) = grant.rule.max_age_secs {
            allowed.insert(header::ACCESS_CONTROL_MAX_AGE, age.into());
        }
        Ok(allowed)
    }

    /// Returns the headers to add to the response of a request, whether it succeeds or not. Without
    /// an `Origin`, there are none.
    pub(crate) async fn headers(&self, request: &Parts) -> HeaderMap {
        let Some(origin) = request.headers.get(header::ORIGIN) else {
            return HeaderMap::new();
        };
        // If the bucket cannot be read now, the request fails as well.
        let Ok(Some(bucket)) = self.bucket(request).await else {
            return HeaderMap::new();
        };
        headers_of(&bucket, &request.method, origin)
    }

    async fn bucket(&self, request: &Parts) -> S3Result<Option<Arc<KnownBucket>>> {
        match self.bucket_name(&request.headers, &request.uri) {
            Some(name) => known_bucket(&self.app.uploads, &name).await.map_err(to_s3),
            None => Ok(None),
        }
    }

    fn bucket_name(&self, headers: &HeaderMap, uri: &Uri) -> Option<String> {
        let host = text(headers, &header::HOST).or_else(|| uri.authority().map(Authority::as_str));
        let in_host = host.and_then(|host| self.domain.bucket(host));
        in_host.or_else(|| uri.path().split('/').nth(1).map(str::to_owned))
    }
}

/// Adds headers to responses that [`Cors::headers`] has not seen: those to requests that the layers
/// around the routes refuse. Looks nothing up, because these layers limit what clients can cause.
pub(crate) async fn complete_refusals(
    State(cors): State<Arc<Cors>>,
    request: Request,
    next: Next,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let Some(origin) = origin.filter(|_| request.method() != Method::OPTIONS) else {
        return next.run(request).await;
    };
    let method = request.method().clone();
    let name = cors.bucket_name(request.headers(), request.uri());
    let mut response = next.run(request).await;
    if !response.headers().contains_key(header::VARY)
        && let Some(bucket) = name.and_then(|name| cached_bucket(&cors.app.uploads, &name))
    {
        response.headers_mut().extend(headers_of(&bucket, &method, &origin));
    }
    response
}

/// The headers for a response to a page of `origin`.
fn headers_of(bucket: &KnownBucket, method: &Method, origin: &HeaderValue) -> HeaderMap {
    if bucket.cors.is_empty() {
        return HeaderMap::new();
    }
    match find_rule(&bucket.cors, origin.to_str().unwrap_or_default(), method.as_str(), &[]) {
        Some(grant) => grant_headers(grant, origin),
        None => HeaderMap::from_iter([(header::VARY, VARY)]),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn grant_headers(grant: CorsGrant<'_>, origin: &HeaderValue) -> HeaderMap {
    let rule = grant.rule;
    let mut headers = HeaderMap::from_iter([(header::VARY, VARY)]);
    if grant.any_origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    insert(&mut headers, header::ACCESS_CONTROL_ALLOW_METHODS, &rule.allowed_methods.join(", "));
    if !rule.expose_headers.is_empty() {
        insert(&mut headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &rule.expose_headers.join(", "));
    }
    headers
}

/// Inserts a header. Names of methods and headers are always allowed in one.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
