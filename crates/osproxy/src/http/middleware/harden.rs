use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What browsers must not make of an answer, where whoever made it has not said so already.
const EVERYWHERE: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    // Links are secrets: where a page sends its readers is not to hear of them.
    (header::REFERRER_POLICY, "no-referrer"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
];

/// What browsers must not make of content: it runs nothing, loads nothing and belongs to nobody. Pages of others may show it.
const OF_CONTENT: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    (header::REFERRER_POLICY, "no-referrer"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"),
];

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

/// For an answer with content, or one that says that the client has it.
pub(in crate::http) fn harden_content(headers: &mut HeaderMap) {
    for (name, value) in OF_CONTENT {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
