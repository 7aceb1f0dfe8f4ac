//! Read a file.

use std::{ops::Range, sync::Arc};

pub use crate::{app::ContentReader, meta::StoredFile};

use super::{Tenant, closed, describe_file::describe_file, unknown_uid};
use crate::{Error, Result, app::App, meta::FileState, uid::Uid};

/// A complete file, to be described before it is read; else an error that says why there is none.
pub async fn download_file(app: &App, uid: Uid) -> Result<Arc<StoredFile>> {
    match app.meta.stored_file(uid).await? {
        Some(file) => Ok(file),
        None => Err(absent(app, uid).await?),
    }
}

/// The same for its owner: of what is another's nothing is told, not even that it is there.
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

/// How often a file is followed whose bytes move from one node to another.
const ROUNDS: usize = 3;

/// What `read` makes of a file, from wherever its bytes lie: again, if they turn out to lie elsewhere by now when what it
/// made is seen by `has_moved`.
pub async fn wherever_it_lies<T, F: Future<Output = Result<T>>>(
    app: &App,
    mut file: Arc<StoredFile>,
    read: impl Fn(Arc<StoredFile>) -> F,
    has_moved: impl Fn(&Result<T>) -> bool,
) -> Result<T> {
    for _ in 1..ROUNDS {
        let made = read(file.clone()).await;
        if !has_moved(&made) {
            return made;
        }
        // What is known of it may be from before its bytes moved.
        let Some(moved) = follow_file(app, &file).await? else {
            return made;
        };
        file = moved;
    }
    read(file).await
}

/// The same file where it lies now, if that is another store than was known; else `None`.
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

/// Opens the bytes `range` of a file, which lies within its size.
pub async fn open_content(app: &Arc<App>, file: &StoredFile, range: Range<u64>) -> Result<ContentReader> {
    match app.open_content(file, range).await? {
        Some(reader) => Ok(reader),
        None => Err(absent(app, file.uid).await?),
    }
}

async fn absent(app: &App, uid: Uid) -> Result<Error> {
    Ok(match app.meta.file_state(uid).await? {
        // It is being completed, or was in this moment.
        Some(FileState::Stored | FileState::Completing) => closed(FileState::Receiving),
        Some(state) => closed(state),
        None => unknown_uid(),
    })
}
