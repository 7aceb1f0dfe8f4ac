//! API v0, compatible with the Go program. Errors are envelopes. Links have all their parameters in
//! the query.

mod body;
pub(super) mod content;
pub(super) mod downloads;
mod envelope;
pub(super) mod form;
pub(super) mod health;
mod json;
pub(super) mod query;
pub(super) mod uploads;

pub(super) use envelope::render;
