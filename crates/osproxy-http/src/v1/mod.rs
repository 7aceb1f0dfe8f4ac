//! API v1. Applications call operations with an API key. The clients of applications call
//! operations with a signed link.

pub(super) mod buckets;
pub(super) mod content;
pub(super) mod digest;
pub(super) mod downloads;
pub(super) mod events;
pub(super) mod files;
mod idempotency;
mod json;
pub(super) mod links;
mod pagination;
pub(super) mod path;
pub(super) mod problem;
pub(super) mod query;
pub(super) mod reject_form;
mod render;
pub(super) mod service;
pub(super) mod store_file;
pub(super) mod tasks;
mod time_format;
pub(super) mod upload_grants;
pub(super) mod upload_link;
pub(super) mod uploads;
pub(super) mod webhooks;
