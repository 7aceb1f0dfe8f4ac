//! Download a file.

use std::{ops::Range, sync::Arc};

pub use crate::ContentReader;
pub use osproxy_meta::StoredFile;

use super::{Files, Tenant, describe_file::describe_file, state_error, unknown_uid_error};
use crate::{Error, Result};
use osproxy_meta::FileState;
use osproxy_types::uid::Uid;

/// Returns a complete file, without opening its content. Otherwise the error states why.
pub async fn download_file(files: &Files, uid: Uid) -> Result<Arc<StoredFile>> {
    match files.meta.stored_file(uid).await? {
        Some(file) => Ok(file),
        None => Err(absence_error(files, uid).await?),
    }
}

/// As [`download_file`], for a file of this tenant. Files of other tenants look like unknown ones.
pub async fn own_file(files: &Files, tenant: &Tenant, uid: Uid) -> Result<Arc<StoredFile>> {
    match files.meta.stored_file(uid).await? {
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

/// Calls `read` with a file. If `has_moved` is true for the result and the bytes are now in another
/// store, calls it again with the new location.
pub async fn retry_if_moved<T, F: Future<Output = Result<T>>>(
    files: &Files,
    mut file: Arc<StoredFile>,
    read: impl Fn(Arc<StoredFile>) -> F,
    has_moved: impl Fn(&Result<T>) -> bool,
) -> Result<T> {
    for _ in 1..MAX_TRIES {
        let result = read(file.clone()).await;
        if !has_moved(&result) {
            return result;
        }
        // The cached row may be older than the move.
        let Some(moved) = find_moved(files, &file).await? else {
            return result;
        };
        file = moved;
    }
    read(file).await
}

/// Returns the file with its new location, if its store has changed.
async fn find_moved(files: &Files, known: &StoredFile) -> Result<Option<Arc<StoredFile>>> {
    let Some(file) = files.meta.stored_file_uncached(known.uid).await? else {
        return Err(absence_error(files, known.uid).await?);
    };
    let has_moved = file.content.store != known.content.store;
    if has_moved {
        files.meta.evict_file(known.uid);
    }
    Ok(Some(file).filter(|_| has_moved))
}

/// Opens the bytes `range` of a file, which must lie within its size.
pub async fn open_content(files: &Arc<Files>, file: &StoredFile, range: Range<u64>) -> Result<ContentReader> {
    match files.objects.open_content(file, range).await? {
        Some(reader) => Ok(reader),
        None => Err(absence_error(files, file.uid).await?),
    }
}

async fn absence_error(files: &Files, uid: Uid) -> Result<Error> {
    Ok(match files.meta.file_state(uid).await? {
        // It is being completed, or was a moment ago.
        Some(FileState::Stored | FileState::Completing) => state_error(FileState::Receiving),
        Some(state) => state_error(state),
        None => unknown_uid_error(),
    })
}
