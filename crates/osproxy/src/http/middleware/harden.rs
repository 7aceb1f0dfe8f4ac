use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::content_type;

const CROSS_ORIGIN_EMBEDDER_POLICY: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What browsers and caches must not make of an answer, unless the handler has set the header already.
const EVERYWHERE: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    // Links are secrets: where a page sends its readers is not to hear of them.
    (header::REFERRER_POLICY, "no-referrer"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
];

/// What browsers must not make of content, whatever its type. Pages of others may show it, isolated ones (COEP) too.
const OF_CONTENT: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"),
    (CROSS_ORIGIN_EMBEDDER_POLICY, "require-corp"),
];

/// Content that a browser would run: it runs nothing, loads nothing and belongs to no origin.
const ACTIVE: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");

/// Other content runs nothing either. The document that a browser makes around it needs styles of its own, and has to load a film again
/// from where it came.
const PASSIVE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox allow-same-origin",
);

/// Browsers show no PDF in a sandbox. Their viewers are one themselves.
const PDF: HeaderValue =
    HeaderValue::from_static("default-src 'none'; object-src 'self'; style-src 'unsafe-inline'");

/// For a year a browser comes over TLS only.
const SECURE: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Completes an answer, over TLS or not.
pub(super) fn harden(headers: &mut HeaderMap, secure: bool) {
    for (name, value) in EVERYWHERE {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, SECURE);
    }
}

/// For an answer with content of this type, or one that says that the client has it.
pub(in crate::http) fn harden_content(headers: &mut HeaderMap, content_type: &str) {
    for (name, value) in OF_CONTENT {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = if content_type::is_active(content_type) {
        ACTIVE
    } else if content_type.eq_ignore_ascii_case("application/pdf") {
        PDF
    } else {
        PASSIVE
    };
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
}
