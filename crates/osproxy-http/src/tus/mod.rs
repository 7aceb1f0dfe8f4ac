//! Resumable uploads by tus 1.0. An upload is the same upload session as in the other APIs: a
//! client may begin it here and continue it there.

mod checksum;
mod headers;
mod metadata;
mod uploads;

pub(crate) use headers::{insert_version, is_tus, status};
pub(super) use uploads::{abort_upload, append_upload, upload_offset};
pub(super) use uploads::{create_upload, describe_protocol, override_method};
