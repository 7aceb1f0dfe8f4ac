//! Find out which node has the bytes of a file.

use osproxy_api::ErrorCode;
use osproxy_meta::StoredFile;
use osproxy_types::uid::Uid;

use super::FileOps;
use crate::{Error, Result, boxed_future};

/// Returns the address of this node if the bytes of `uid` are in a store that only this node has.
/// Fails with `FileNotFound` otherwise.
#[boxed_future]
pub async fn locate_content<'a>(files: &'a FileOps, uid: Uid) -> Result<&'a str> {
    let store = files.meta.uploads.store_of(uid).await?;
    let is_own = store.is_some_and(|store| files.stores.has(&store) && !files.stores.is_shared(&store));
    let absent = || Error::new(ErrorCode::FileNotFound, "this node does not have the bytes of this file");
    is_own.then(|| files.node.address()).ok_or_else(absent)
}

/// Returns the store of a file if this node does not have that store.
pub fn store_elsewhere<'a>(files: &FileOps, file: &'a StoredFile) -> Option<&'a str> {
    Some(file.content.store.as_str()).filter(|store| !files.stores.has(store))
}
