//! Decide which node receives the parts of an upload.

use osproxy_cluster::NodeDescription;
use osproxy_meta::PartsStore;
use osproxy_types::{tenant::Tenant, uid::Uid};

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
            undecided @ (PartsStore::Undecided | PartsStore::UndecidedPartial(_)) => {
                if let PartsStore::UndecidedPartial(tenant) = undecided
                    && let Some(store) = partial_uploads_elsewhere(uploads, &tenant).await
                {
                    return Ok(Some(store));
                }
                uploads.meta.uploads.choose_parts_store(uid, uploads.uids.next().await?).await?
            }
            decided => decided,
        };
        match place {
            PartsStore::Store(store) => return Ok(Some(store).filter(|store| !uploads.stores.has(store))),
            PartsStore::NotReceiving => return Ok(None),
            PartsStore::Undecided | PartsStore::UndecidedPartial(_) => {}
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

/// Returns the store for new partial uploads of `tenant` if another node has it. A final upload
/// needs the parts of all its partial uploads in one store, and nothing tells which of them belong
/// together. So all partial uploads of a tenant go to the same node, as long as the nodes are the
/// same.
#[boxed_future]
pub async fn partial_uploads_elsewhere(uploads: &UploadOps, tenant: &Tenant) -> Option<String> {
    if !uploads.stores.has_node_local() {
        return None;
    }
    let nodes = match uploads.coordinator.list_nodes().await {
        Ok(nodes) => nodes,
        Err(error) => {
            tracing::warn!(%error, "cannot look up the node for partial uploads; using this node");
            return None;
        }
    };
    let new_files_store = |node: NodeDescription| {
        let store = node.stores.into_iter().next()?;
        node.own_stores.contains(&store).then_some(store)
    };
    // If a node joins or leaves, most tenants keep their node.
    let stores = nodes.into_iter().filter_map(|known| new_files_store(known.node));
    let chosen = stores.max_by_key(|store| *blake3::hash(format!("{tenant} {store}").as_bytes()).as_bytes());
    chosen.filter(|store| !uploads.stores.has(store))
}
