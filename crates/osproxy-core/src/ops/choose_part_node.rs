//! Decide which node receives the parts of an upload.

use osproxy_meta::PartsStore;
use osproxy_types::uid::Uid;

use super::UploadOps;
use crate::{Error, Result, boxed_future};

/// Maximum attempts when concurrent requests start the same upload.
const MAX_TRIES: usize = 3;

/// Returns the store for the parts of `uid` if this node does not have that store; `None` if this
/// node should handle the part. If no store is chosen yet, chooses a store of this node.
#[boxed_future]
pub async fn choose_part_node(uploads: &UploadOps, uid: Uid) -> Result<Option<String>> {
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

/// Returns the store for the parts of `uid` if one is chosen and this node does not have it. Never
/// chooses a store.
#[boxed_future]
pub async fn parts_elsewhere(uploads: &UploadOps, uid: Uid) -> Result<Option<String>> {
    if !uploads.stores.has_node_local() {
        return Ok(None);
    }
    Ok(match uploads.meta.uploads.parts_store(uid).await? {
        PartsStore::Store(store) if !uploads.stores.has(&store) => Some(store),
        _ => None,
    })
}
