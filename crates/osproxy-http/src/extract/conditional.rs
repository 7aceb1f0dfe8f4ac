//! Conditional requests (RFC 9110, section 13) for content that never changes.

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, header};

/// Validators of a representation, for comparison with preconditions.
pub(crate) struct Validators<'a> {
    /// Strong entity tag, with its quotes.
    pub(crate) etag: &'a str,
    /// Time of the last modification, in whole seconds.
    pub(crate) last_modified: SystemTime,
}

/// Result of the preconditions of a GET or HEAD request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PreconditionResult {
    /// All preconditions hold: serve the content.
    Proceed,
    /// The client's copy is current: 304.
    NotModified,
    /// `If-Match` or `If-Unmodified-Since` failed: 412.
    PreconditionFailed,
}

/// Evaluates the preconditions, in the order of RFC 9110, section 13.2.2.
pub(crate) fn evaluate(headers: &HeaderMap, validators: &Validators<'_>) -> PreconditionResult {
    let modified_since = |name| date(headers, name).map(|date| validators.last_modified > date);
    if let Some(matched) = any_matches(headers, &header::IF_MATCH, |tag| tag == validators.etag) {
        if !matched {
            return PreconditionResult::PreconditionFailed;
        }
    } else if modified_since(&header::IF_UNMODIFIED_SINCE) == Some(true) {
        return PreconditionResult::PreconditionFailed;
    }
    // If-None-Match uses the weak comparison, which ignores a leading `W/`.
    let matches_weakly = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == validators.etag;
    if let Some(matched) = any_matches(headers, &header::IF_NONE_MATCH, matches_weakly) {
        if matched {
            return PreconditionResult::NotModified;
        }
    } else if modified_since(&header::IF_MODIFIED_SINCE) == Some(false) {
        return PreconditionResult::NotModified;
    }
    PreconditionResult::Proceed
}

/// Whether the `Range` header applies. With `If-Range`, `Range` applies only if the entity tag or
/// date in `If-Range` matches.
pub(crate) fn range_applies(headers: &HeaderMap, validators: &Validators<'_>) -> bool {
    let Some(field) = headers.get(header::IF_RANGE) else {
        return true;
    };
    let field = field.to_str().unwrap_or_default().trim();
    field == validators.etag
        || httpdate::parse_http_date(field).is_ok_and(|date| date == validators.last_modified)
}

/// Whether a header contains `*`, or an entity tag that satisfies `matches`. The header may have
/// several lines. Returns `None` if the header is absent.
fn any_matches(headers: &HeaderMap, name: &HeaderName, matches: impl Fn(&str) -> bool) -> Option<bool> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    let mut tags = lines.flat_map(|line| tags(line.to_str().unwrap_or_default()));
    Some(tags.any(|tag| tag == "*" || matches(tag)))
}

/// Splits a list of entity tags at its commas, except at commas within quotes.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let separator = move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    list.split(separator).map(str::trim).filter(|tag| !tag.is_empty())
}

/// Parses the date in a header. Returns `None` if the header is absent or its date is invalid.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let text = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const BEFORE: &str = "Sun, 22 Nov 2026 11:59:59 GMT";
    const SAME: &str = "Sun, 22 Nov 2026 12:00:00 GMT";
    const AFTER: &str = "Sun, 22 Nov 2026 12:00:01 GMT";

    fn validators() -> Validators<'static> {
        let last_modified = UNIX_EPOCH + Duration::from_hours(498_708);
        assert_eq!(httpdate::fmt_http_date(last_modified), SAME);
        Validators { etag: "\"7\"", last_modified }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let parsed =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut headers = HeaderMap::new();
        parsed.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn preconditions_are_evaluated_in_order() {
        use PreconditionResult::{NotModified, PreconditionFailed, Proceed};
        for (fields, expected) in [
            (&[][..], Proceed),
            (&[("if-match", "\"7\"")], Proceed),
            (&[("if-match", "*")], Proceed),
            (&[("if-match", "\"6\"")], PreconditionFailed),
            (&[("if-match", "W/\"7\"")], PreconditionFailed),
            (&[("if-match", "\"a,b\", \"7\"")], Proceed),
            (&[("if-match", "\"6\""), ("if-match", "\"7\"")], Proceed),
            (&[("if-none-match", "\"7\"")], NotModified),
            (&[("if-none-match", "W/\"7\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"6\"")], Proceed),
            (&[("if-modified-since", SAME)], NotModified),
            (&[("if-modified-since", BEFORE)], Proceed),
            (&[("if-modified-since", "yesterday")], Proceed),
            (&[("if-unmodified-since", SAME)], Proceed),
            (&[("if-unmodified-since", BEFORE)], PreconditionFailed),
            (&[("if-none-match", "\"6\""), ("if-modified-since", AFTER)], Proceed),
            (&[("if-match", "\"7\""), ("if-unmodified-since", BEFORE)], Proceed),
            (&[("if-match", "\"6\""), ("if-none-match", "\"7\"")], PreconditionFailed),
        ] {
            assert_eq!(evaluate(&headers(fields), &validators()), expected, "{fields:?}");
        }
    }

    #[test]
    fn if_range_requires_the_same_representation() {
        for (fields, expected) in [
            (&[][..], true),
            (&[("if-range", "\"7\"")], true),
            (&[("if-range", SAME)], true),
            (&[("if-range", "\"6\"")], false),
            (&[("if-range", "W/\"7\"")], false),
            (&[("if-range", AFTER)], false),
            (&[("if-range", "*")], false),
        ] {
            assert_eq!(range_applies(&headers(fields), &validators()), expected, "{fields:?}");
        }
    }
}
