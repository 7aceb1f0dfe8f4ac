//! Path parameters.

use std::str::FromStr;

use axum::extract::{Path, rejection::PathRejection};
use osproxy_api::ErrorCode;
use osproxy_core::{Error, Result};
use osproxy_types::uid::Uid;

/// Extractor of path parameters. Keeps the rejection, because the response that axum would send is
/// not a problem document.
pub(crate) type PathResult<T> = std::result::Result<Path<T>, PathRejection>;

pub(crate) fn parameters<T>(path: PathResult<T>) -> Result<T> {
    let not_utf8 = |_| Error::new(ErrorCode::UnknownRoute, "the path is not valid UTF-8");
    Ok(path.map_err(not_utf8)?.0)
}

pub(super) fn uid(path: PathResult<String>) -> Result<Uid> {
    parse_uid(&parameters(path)?)
}

pub(crate) fn parse_uid(text: &str) -> Result<Uid> {
    Uid::from_str(text).map_err(|error| Error::invalid(error.to_string()).with_field("uid"))
}

/// Returns the id of an upload grant in a path. These ids have the same form as uids.
pub(super) fn grant_id(path: PathResult<String>) -> Result<Uid> {
    parse_grant_id(&parameters(path)?)
}

/// Parses the id of an upload grant.
pub(crate) fn parse_grant_id(text: &str) -> Result<Uid> {
    let invalid = |_| Error::invalid("a grant id must be a positive decimal number").with_field("grant");
    Uid::from_str(text).map_err(invalid)
}

/// Returns the id of a webhook in a path. These ids have the same form as uids.
pub(super) fn webhook_id(path: PathResult<String>) -> Result<Uid> {
    let id = Uid::from_str(&parameters(path)?);
    id.map_err(|_| Error::invalid("a webhook id must be a positive decimal number").with_field("id"))
}

/// Returns the task id in a path. Task ids have the same form as uids.
pub(super) fn task_id(path: PathResult<String>) -> Result<i64> {
    let id = Uid::from_str(&parameters(path)?);
    let invalid = |_| Error::invalid("a task id must be a positive decimal number").with_field("id");
    Ok(id.map_err(invalid)?.get())
}
