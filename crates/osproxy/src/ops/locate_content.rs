//! Which node has the bytes of a file?

use crate::{
    Error, Result,
    app::App,
    meta::{PartsIn, StoredFile},
    uid::Uid,
};

use osproxy_api::ErrorCode;

/// How often two that begin the same upload may meet.
const ROUNDS: usize = 3;

/// Where other nodes reach this one, if it has bytes of `uid` at hand that no other node has.
pub async fn locate_content(app: &App, uid: Uid) -> Result<&str> {
    let store = app.meta.store_of(uid).await?;
    let is_own = store.is_some_and(|store| app.stores.has(&store) && !app.stores.is_shared(&store));
    let absent = || Error::new(ErrorCode::FileNotFound, "this node holds no bytes of this file");
    is_own.then(|| app.address()).ok_or_else(absent)
}

/// The store of a file, if another node has it at hand and this one has not.
pub fn elsewhere<'a>(app: &App, file: &'a StoredFile) -> Option<&'a str> {
    Some(file.content.store.as_str()).filter(|store| !app.stores.has(store))
}

/// The store that takes the parts of `uid`, if another node has it at hand and this one has not. The first part decides:
/// if there is none yet, they will lie here.
pub async fn settle_parts(app: &App, uid: Uid) -> Result<Option<String>> {
    // Where there are only shared stores, any node takes any part.
    if !app.stores.are_apart() {
        return Ok(None);
    }
    for _ in 0..ROUNDS {
        let place = match app.meta.parts_in(uid).await? {
            PartsIn::Undecided => app.meta.settle_parts(uid, app.next_uid().await?).await?,
            decided => decided,
        };
        match place {
            PartsIn::Store(store) => return Ok(Some(store).filter(|store| !app.stores.has(store))),
            PartsIn::Nowhere => return Ok(None),
            PartsIn::Undecided => {}
        }
    }
    Err(Error::unavailable("the upload was begun too often at the same time"))
}

/// The store that the parts of `uid` lie in, if another node has it at hand and this one has not.
pub async fn parts_elsewhere(app: &App, uid: Uid) -> Result<Option<String>> {
    if !app.stores.are_apart() {
        return Ok(None);
    }
    Ok(match app.meta.parts_in(uid).await? {
        PartsIn::Store(store) if !app.stores.has(&store) => Some(store),
        _ => None,
    })
}
