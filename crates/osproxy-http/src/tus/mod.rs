//! Resumable uploads by tus 1.0. An upload is the same upload session as in the other APIs: a
//! client may begin it here and continue it there.

mod checksum;
mod concatenation;
mod headers;
mod metadata;
mod uploads;

/// Entry points for the fuzz targets.
pub mod parsers {
    pub use super::{
        checksum::parse as checksum,
        concatenation::{Concat, parse as concat},
        metadata::{UploadMetadata, format as format_metadata, parse as metadata},
    };
}

pub(crate) use headers::{insert, insert_version, is_tus, status};
pub(crate) use uploads::DEFAULT_NAME;
pub(super) use uploads::{abort_upload, append_upload, upload_offset};
pub(super) use uploads::{create_upload, describe_protocol, override_method};
