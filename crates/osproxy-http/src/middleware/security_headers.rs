//! Security headers of responses.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use osproxy_types::content_type;

const CROSS_ORIGIN_EMBEDDER_POLICY: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Headers of every response, unless the handler has set them itself.
const DEFAULT_HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    // Links are secrets. They must not leak to other sites in `Referer`.
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin")),
];

/// Headers of responses for content of any type. Pages of other origins may embed the content, even
/// pages with a `Cross-Origin-Embedder-Policy` (COEP).
const CONTENT_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin")),
    (CROSS_ORIGIN_EMBEDDER_POLICY, HeaderValue::from_static("require-corp")),
];

/// Policy for active content, such as HTML: the content runs no scripts, loads nothing, and has an
/// opaque origin.
const ACTIVE_CONTENT_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");

/// Policy for passive content, which must not run scripts either. To display a video, browsers
/// generate a document that has inline styles and loads the video from its URL; the policy allows
/// both.
const PASSIVE_CONTENT_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox allow-same-origin",
);

/// Policy for PDF. Browsers do not display a PDF with `sandbox`. The PDF viewers of browsers run in
/// a separate sandbox.
const PDF_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; object-src 'self'; style-src 'unsafe-inline'");

/// Makes browsers use only TLS for a year.
const STRICT_TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Adds the default security headers. With `is_tls`, also makes browsers use only TLS.
pub(super) fn insert_security_headers(headers: &mut HeaderMap, is_tls: bool) {
    for (name, value) in DEFAULT_HEADERS {
        headers.entry(name).or_insert(value);
    }
    if is_tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT_SECURITY);
    }
}

/// Adds the security headers of the S3 API. Its clients expect only the headers that they stored,
/// and pages may embed its content.
pub(super) fn insert_s3_security_headers(headers: &mut HeaderMap, is_tls: bool) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ] {
        headers.entry(name).or_insert(value);
    }
    if is_tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT_SECURITY);
    }
}

/// Sets the security headers of a response (200, 206 or 304) for content of type `content_type`.
pub(crate) fn insert_content_security_headers(headers: &mut HeaderMap, content_type: &str) {
    for (name, value) in CONTENT_HEADERS {
        headers.insert(name, value);
    }
    let policy = if content_type::may_execute_scripts(content_type) {
        ACTIVE_CONTENT_POLICY
    } else if content_type.eq_ignore_ascii_case("application/pdf") {
        PDF_POLICY
    } else {
        PASSIVE_CONTENT_POLICY
    };
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
}
