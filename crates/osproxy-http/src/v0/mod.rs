//! API v0, compatible with the Go program. Errors are envelopes; links carry everything in the
//! query.

mod body;
pub(super) mod check_health;
pub(super) mod complete_upload;
pub(super) mod create_download_link;
pub(super) mod create_upload;
pub(super) mod download_file;
mod envelope;
pub(super) mod form;
pub(super) mod instant_upload;
mod json;
pub(super) mod locate_content;
pub(super) mod query;
pub(super) mod upload_file;
pub(super) mod upload_part;
pub(super) mod upload_status;

pub(super) use envelope::render;
