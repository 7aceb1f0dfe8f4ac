//! Download a file.

use std::{ops::Range, sync::Arc};

pub use crate::{app::ContentReader, meta::StoredFile};

use super::{Tenant, closed, describe_file::describe_file, unknown_uid};
use crate::{Error, Result, app::App, meta::FileState, uid::Uid};

/// Returns a complete file, without opening its content. Otherwise the error tells its state.
pub async fn download_file(app: &App, uid: Uid) -> Result<Arc<StoredFile>> {
    match app.meta.stored_file(uid).await? {
        Some(file) => Ok(file),
        None => Err(absent(app, uid).await?),
    }
}

/// As [`download_file`], for a file of this tenant. Files of other tenants look like unknown ones.
pub async fn own_file(app: &App, tenant: &Tenant, uid: Uid) -> Result<Arc<StoredFile>> {
    match app.meta.stored_file(uid).await? {
        Some(file) if file.tenant == *tenant => Ok(file),
        Some(_) => Err(unknown_uid()),
        None => match describe_file(app, tenant, uid).await?.state {
            FileState::Stored | FileState::Completing => Err(closed(FileState::Receiving)),
            state => Err(closed(state)),
        },
    }
}

/// How often to follow a file whose bytes move from one node to another.
const ROUNDS: usize = 3;

/// Calls `read` with a file. If `has_moved` finds from the result that the bytes have moved, and
/// they are in another store now, calls it again with the new location.
pub async fn wherever_it_lies<T, F: Future<Output = Result<T>>>(
    app: &App,
    mut file: Arc<StoredFile>,
    read: impl Fn(Arc<StoredFile>) -> F,
    has_moved: impl Fn(&Result<T>) -> bool,
) -> Result<T> {
    for _ in 1..ROUNDS {
        let result = read(file.clone()).await;
        if !has_moved(&result) {
            return result;
        }
        // The cached row may be older than the move.
        let Some(moved) = follow_file(app, &file).await? else {
            return result;
        };
        file = moved;
    }
    read(file).await
}

/// Returns the file with its new location, if that is another store than the known one.
async fn follow_file(app: &App, known: &StoredFile) -> Result<Option<Arc<StoredFile>>> {
    let Some(file) = app.meta.stored_file_anew(known.uid).await? else {
        return Err(absent(app, known.uid).await?);
    };
    let has_moved = file.content.store != known.content.store;
    if has_moved {
        app.meta.forget_remembered(known.uid);
    }
    Ok(Some(file).filter(|_| has_moved))
}

/// Opens the bytes `range` of a file, which must lie within its size.
pub async fn open_content(app: &Arc<App>, file: &StoredFile, range: Range<u64>) -> Result<ContentReader> {
    match app.open_content(file, range).await? {
        Some(reader) => Ok(reader),
        None => Err(absent(app, file.uid).await?),
    }
}

async fn absent(app: &App, uid: Uid) -> Result<Error> {
    Ok(match app.meta.file_state(uid).await? {
        // It is being completed, or was a moment ago.
        Some(FileState::Stored | FileState::Completing) => closed(FileState::Receiving),
        Some(state) => closed(state),
        None => unknown_uid(),
    })
}
