//! Download a file.

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use osproxy_meta::FileState;
pub use osproxy_meta::StoredFile;
use osproxy_types::uid::Uid;

use super::{FileOps, Tenant, describe_file::describe_file, state_error, unknown_uid_error};
use crate::{AdmissionGuard, ContentReader, Error, Result, boxed_future, links::LinkConstraints};

/// Returns a complete file, without opening its content. Fails with the error for the state of the
/// file if the file is not complete, and with `FileNotFound` if the uid is unknown.
#[boxed_future]
pub async fn download_file(files: &FileOps, uid: Uid) -> Result<Arc<StoredFile>> {
    match files.meta.files.stored(uid).await? {
        Some(file) => Ok(file),
        None => Err(absence_error(files, uid).await?),
    }
}

/// Like [`download_file`], but also returns a file that is being processed. Only for links that
/// were made for processing.
#[boxed_future]
pub async fn complete_file(files: &FileOps, uid: Uid) -> Result<Arc<StoredFile>> {
    match files.meta.files.complete_uncached(uid).await? {
        Some(file) => Ok(file),
        None => Err(absence_error(files, uid).await?),
    }
}

/// Like [`download_file`], but only for files of `tenant`. Fails with `FileNotFound` for files of
/// other tenants.
#[boxed_future]
pub async fn own_file(files: &FileOps, tenant: &Tenant, uid: Uid) -> Result<Arc<StoredFile>> {
    match files.meta.files.stored(uid).await? {
        Some(file) if file.tenant == *tenant => Ok(file),
        Some(_) => Err(unknown_uid_error()),
        None => match describe_file(files, tenant, uid).await?.state {
            FileState::Stored | FileState::Completing => Err(state_error(FileState::Receiving)),
            state => Err(state_error(state)),
        },
    }
}

/// Maximum attempts when the bytes of a file move from one node to another.
const MAX_TRIES: usize = 3;

/// Calls `read` with a file. If `has_moved` returns true for the result and the bytes of the file
/// are now in another store, calls `read` again with the new location.
pub async fn retry_if_moved<T, F: Future<Output = Result<T>>>(
    files: &FileOps,
    mut file: Arc<StoredFile>,
    read: impl Fn(Arc<StoredFile>) -> F,
    has_moved: impl Fn(&Result<T>) -> bool,
) -> Result<T> {
    for _ in 1..MAX_TRIES {
        let result = read(file.clone()).await;
        if !has_moved(&result) {
            return result;
        }
        // The bytes may have moved after the row was cached.
        let Some(moved) = find_moved(files, &file).await? else {
            return result;
        };
        file = moved;
    }
    read(file).await
}

/// Returns the file with its new location; `None` if its store has not changed.
async fn find_moved(files: &FileOps, known: &StoredFile) -> Result<Option<Arc<StoredFile>>> {
    let Some(file) = files.meta.files.complete_uncached(known.uid).await? else {
        return Err(absence_error(files, known.uid).await?);
    };
    let has_moved = file.content.store != known.content.store;
    if has_moved {
        files.meta.files.evict(known.uid);
    }
    Ok(Some(file).filter(|_| has_moved))
}

/// Content of an admitted download. Counts against the concurrency limits until it is dropped.
pub struct AdmittedContent {
    reader: ContentReader,
    _admission: AdmissionGuard,
}

impl Stream for AdmittedContent {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.reader.poll_next_unpin(cx)
    }
}

/// Opens the bytes `range` of a file for a link with these constraints. The range must lie within
/// the size of the file. Fails with `Overloaded` at a concurrency limit.
#[boxed_future]
pub async fn open_content(
    files: &FileOps,
    file: &StoredFile,
    range: Range<u64>,
    constraints: &LinkConstraints,
) -> Result<AdmittedContent> {
    let admission = files.admission.admit_download(constraints, &file.tenant).await?;
    match files.objects.open_content(file, range).await? {
        Some(reader) => Ok(AdmittedContent { reader, _admission: admission }),
        None => Err(absence_error(files, file.uid).await?),
    }
}

async fn absence_error(files: &FileOps, uid: Uid) -> Result<Error> {
    Ok(match files.meta.files.state(uid).await? {
        // A concurrent request is completing the upload, or has just completed it.
        Some(FileState::Stored | FileState::Completing) => state_error(FileState::Receiving),
        Some(state) => state_error(state),
        None => unknown_uid_error(),
    })
}
