//! Find the node that has the bytes of a file.

use osproxy_api::ErrorCode;
use osproxy_meta::{PartsStore, StoredFile};
use osproxy_types::uid::Uid;

use super::{FileOps, UploadOps};
use crate::{Error, Result};

/// Maximum attempts when concurrent requests start the same upload.
const MAX_TRIES: usize = 3;

/// Returns the address of this node, if it has bytes of `uid` that no other node has.
pub async fn locate_content(files: &FileOps, uid: Uid) -> Result<&str> {
    let store = files.meta.uploads.store_of(uid).await?;
    let is_own = store.is_some_and(|store| files.stores.has(&store) && !files.stores.is_shared(&store));
    let absent = || Error::new(ErrorCode::FileNotFound, "this node does not have the bytes of this file");
    is_own.then(|| files.node.address()).ok_or_else(absent)
}

/// Returns the store of a file, if only another node has it.
pub fn store_elsewhere<'a>(files: &FileOps, file: &'a StoredFile) -> Option<&'a str> {
    Some(file.content.store.as_str()).filter(|store| !files.stores.has(store))
}

/// Returns the store for the parts of `uid`, if only another node has it. The first part decides:
/// if there is none yet, the parts go to this node.
pub async fn assign_parts(uploads: &UploadOps, uid: Uid) -> Result<Option<String>> {
    // With shared stores only, any node accepts any part.
    if !uploads.stores.has_node_local() {
        return Ok(None);
    }
    for _ in 0..MAX_TRIES {
        let place = match uploads.meta.uploads.parts_store(uid).await? {
            PartsStore::Undecided => {
                uploads.meta.uploads.choose_parts_store(uid, uploads.uids.next().await?).await?
            }
            decided => decided,
        };
        match place {
            PartsStore::Store(store) => return Ok(Some(store).filter(|store| !uploads.stores.has(store))),
            PartsStore::NotReceiving => return Ok(None),
            PartsStore::Undecided => {}
        }
    }
    Err(Error::unavailable("too many concurrent requests for this upload; retry"))
}

/// Returns the store that has the parts of `uid`, if only another node has it.
pub async fn parts_elsewhere(uploads: &UploadOps, uid: Uid) -> Result<Option<String>> {
    if !uploads.stores.has_node_local() {
        return Ok(None);
    }
    Ok(match uploads.meta.uploads.parts_store(uid).await? {
        PartsStore::Store(store) if !uploads.stores.has(&store) => Some(store),
        _ => None,
    })
}
