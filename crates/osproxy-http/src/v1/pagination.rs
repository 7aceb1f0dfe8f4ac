//! Pagination: page size and cursor.

use osproxy_api::v1::{DEFAULT_PAGE, MAX_PAGE};
use osproxy_core::{Error, Result, links::Links};
use serde::de::DeserializeOwned;

use super::query::Query;

/// Returns the page size.
pub(super) fn limit(query: &Query<'_>) -> Result<u64> {
    let Some(text) = query.get("limit") else {
        return Ok(DEFAULT_PAGE);
    };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| digits && (1..=MAX_PAGE).contains(limit));
    let message = || format!("`limit` must be 1 to {MAX_PAGE}");
    limit.ok_or_else(|| Error::invalid(message()).with_field("limit"))
}

/// Returns the position in the cursor of a query; `None` for the first page.
pub(super) fn parse_cursor<T: DeserializeOwned>(
    links: &Links,
    filters: &[&str],
    query: &Query<'_>,
) -> Result<Option<T>> {
    let Some(cursor) = query.get("cursor") else {
        return Ok(None);
    };
    let invalid = || Error::invalid("`cursor` is invalid or belongs to other filters").with_field("cursor");
    links.verify_cursor(filters, cursor)?.ok_or_else(invalid).map(Some)
}
