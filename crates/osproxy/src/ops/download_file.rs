//! Read a file.

use std::{ops::Range, sync::Arc};

use osproxy_api::ErrorCode;

pub use crate::meta::StoredFile;
pub use osproxy_storage::ObjectReader;

use crate::{Error, Result, app::App, uid::Uid};

/// A complete file, to be described before it is read; `FileNotFound` when the uid is unknown or not complete.
pub async fn download_file(app: &App, uid: Uid) -> Result<Arc<StoredFile>> {
    let file = app.meta.stored_file(uid).await?;
    file.ok_or_else(|| Error::new(ErrorCode::FileNotFound, "there is no complete file with this uid"))
}

/// Opens the bytes `range` of a file, which lies within its size.
pub async fn open_content(app: &App, file: &StoredFile, range: Range<u64>) -> Result<ObjectReader> {
    let opened = app.storage.open(&file.blob.key, range).await;
    if opened.is_err() {
        // What is remembered may be from before the content was mended.
        app.meta.forget_remembered(file.uid);
    }
    Ok(opened?)
}
