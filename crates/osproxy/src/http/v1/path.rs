use std::str::FromStr;

use axum::extract::{Path, rejection::PathRejection};
use osproxy_api::ErrorCode;

use crate::{Error, Result, uid::Uid};

/// What a path holds in the places of its parameters. Axum's own answer to one that cannot be read is no problem document.
pub(super) type InPath<T> = std::result::Result<Path<T>, PathRejection>;

/// The parameters of a path.
pub(super) fn parameters<T>(path: InPath<T>) -> Result<T> {
    let unreadable = |_| Error::new(ErrorCode::UnknownRoute, "the path is not UTF-8");
    Ok(path.map_err(unreadable)?.0)
}

/// The uid that a path names.
pub(super) fn uid(path: InPath<String>) -> Result<Uid> {
    parse_uid(&parameters(path)?)
}

/// Reads a uid.
pub(super) fn parse_uid(text: &str) -> Result<Uid> {
    Uid::from_str(text).map_err(|error| Error::invalid(error.to_string()).with_field("uid"))
}

/// The number of a task that a path names. It is made as uids are, and is spelled like them.
pub(super) fn task(path: InPath<String>) -> Result<i64> {
    let id = Uid::from_str(&parameters(path)?);
    let wrong = |_| Error::invalid("the number of a task is a positive decimal number").with_field("id");
    Ok(id.map_err(wrong)?.get())
}
