//! Preconditions of RFC 9110, section 13, for content that never changes.

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, header};

/// What tells one representation from another.
pub(super) struct Validators<'a> {
    /// Strong, with its quotes.
    pub(super) etag: &'a str,
    /// Whole seconds.
    pub(super) last_modified: SystemTime,
}

/// What the preconditions of a GET or HEAD come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304: the client has it.
    NotModified,
    /// 412: the client wants another.
    Failed,
}

/// Evaluates the preconditions, in the order of section 13.2.2.
pub(super) fn evaluate(headers: &HeaderMap, validators: &Validators<'_>) -> Verdict {
    let since = |name| date(headers, name).map(|date| validators.last_modified > date);
    if let Some(matched) = any_matches(headers, &header::IF_MATCH, |tag| tag == validators.etag) {
        if !matched {
            return Verdict::Failed;
        }
    } else if since(&header::IF_UNMODIFIED_SINCE) == Some(true) {
        return Verdict::Failed;
    }
    // If-None-Match compares weakly: what stands behind W/ counts.
    let weakly = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == validators.etag;
    if let Some(matched) = any_matches(headers, &header::IF_NONE_MATCH, weakly) {
        if matched {
            return Verdict::NotModified;
        }
    } else if since(&header::IF_MODIFIED_SINCE) == Some(false) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether a `Range` counts: always without `If-Range`, else only for the very same representation.
pub(super) fn range_applies(headers: &HeaderMap, validators: &Validators<'_>) -> bool {
    let Some(field) = headers.get(header::IF_RANGE) else {
        return true;
    };
    let field = field.to_str().unwrap_or_default().trim();
    field == validators.etag
        || httpdate::parse_http_date(field).is_ok_and(|date| date == validators.last_modified)
}

/// Whether any entity tag of a field, over all its lines, fits. `None` when there is no such field.
fn any_matches(headers: &HeaderMap, name: &HeaderName, fits: impl Fn(&str) -> bool) -> Option<bool> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    let mut tags = lines.flat_map(|line| tags(line.to_str().unwrap_or_default()));
    Some(tags.any(|tag| tag == "*" || fits(tag)))
}

/// The entity tags of a list. Commas may stand within the quotes.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let separator = move |letter: char| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    };
    list.split(separator).map(str::trim).filter(|tag| !tag.is_empty())
}

/// The date of a field; what is no date is ignored.
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
    fn preconditions_in_their_order() {
        use Verdict::{Failed, NotModified, Proceed};
        for (fields, expected) in [
            (&[][..], Proceed),
            (&[("if-match", "\"7\"")], Proceed),
            (&[("if-match", "*")], Proceed),
            (&[("if-match", "\"6\"")], Failed),
            (&[("if-match", "W/\"7\"")], Failed),
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
            (&[("if-unmodified-since", BEFORE)], Failed),
            (&[("if-none-match", "\"6\""), ("if-modified-since", AFTER)], Proceed),
            (&[("if-match", "\"7\""), ("if-unmodified-since", BEFORE)], Proceed),
            (&[("if-match", "\"6\""), ("if-none-match", "\"7\"")], Failed),
        ] {
            assert_eq!(evaluate(&headers(fields), &validators()), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_range_counts_only_for_the_same_representation() {
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
