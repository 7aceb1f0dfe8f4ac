//! The store that holds, or will hold, the bytes of a file.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};

use crate::MetaError;
use crate::{
    BeginPartOutcome, MultipartSlot, UploadDb, boxed_future,
    db::{
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    uploads::receiving_blob::{FindBlobOutcome, find_or_create},
};

/// A part number that no part has.
const NO_PART: u32 = 0;

/// The store that receives the parts of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartsStore {
    /// The name of the store.
    Store(String),
    /// No store is chosen yet: the first part chooses one.
    Undecided,
    /// No store is chosen yet for this partial upload of a tenant. All partial uploads of a final
    /// upload must be in one store.
    UndecidedPartial(Tenant),
    /// The file takes no parts, or does not exist.
    NotReceiving,
}

impl UploadDb {
    /// Returns the name of the store that holds, or will hold, the bytes of a file; `None` if the
    /// uid is unknown, no store is chosen yet, or the file has no blob any more.
    #[boxed_future]
    pub async fn store_of(&self, uid: Uid) -> Result<Option<String>, MetaError> {
        let store = file::Entity::find_by_id(uid.get())
            .inner_join(blob::Entity)
            .select_only()
            .column(blob::Column::Backend)
            .filter(blob::Column::State.ne(blob::State::Deleting));
        Ok(store.into_tuple().one(&self.db.lookups).await?)
    }

    /// Returns the store that receives the parts of an upload.
    #[boxed_future]
    pub async fn parts_store(&self, uid: Uid) -> Result<PartsStore, MetaError> {
        let row = file::Entity::find_by_id(uid.get())
            .left_join(blob::Entity)
            .select_only()
            .columns([file::Column::State, file::Column::Tenant])
            .column(blob::Column::Backend);
        let row: Option<(file::State, String, Option<String>)> =
            row.into_tuple().one(&self.db.lookups).await?;
        Ok(match row {
            Some((
                file::State::Receiving | file::State::Completing | file::State::Partial,
                _,
                Some(store),
            )) => PartsStore::Store(store),
            Some((file::State::Pending | file::State::Receiving, _, None)) => PartsStore::Undecided,
            Some((file::State::Partial, tenant, None)) => {
                PartsStore::UndecidedPartial(Tenant::from_db(&tenant))
            }
            _ => PartsStore::NotReceiving,
        })
    }

    /// Prepares an upload before its first part arrives: finds or creates the blob that collects
    /// the parts, and claims a preallocated file for that blob in a local store. A new blob gets
    /// the uid as its id, or `fallback_id` if another blob may have that id. Returns the store, the
    /// blob's id and the slot; `None` if this node does not write the parts into a preallocated
    /// file.
    #[boxed_future]
    pub async fn preallocate(
        &self,
        uid: Uid,
        fallback_id: Uid,
    ) -> Result<Option<(String, i64, MultipartSlot)>, MetaError> {
        let node_stores = self.db.node_stores.clone();
        self.db
            .write_or_rollback(move |transaction| {
                let node_stores = node_stores.clone();
                Box::pin(async move {
                    let FindBlobOutcome::Found(blob) =
                        find_or_create(transaction, uid, NO_PART, fallback_id.get(), &node_stores).await?
                    else {
                        return Ok(TxEnd::Rollback(None));
                    };
                    Ok(match blob.claim_slot(transaction, &node_stores).await? {
                        Some(slot) => TxEnd::Commit(Some((blob.store, blob.blob_id, slot))),
                        None => TxEnd::Rollback(None),
                    })
                })
            })
            .await
    }

    /// Chooses this node's default store for the parts of a file, unless a store is already chosen.
    /// Returns the chosen store. A new blob gets the uid as its id, or `fallback_id` if another
    /// blob may have that id.
    #[boxed_future]
    pub async fn choose_parts_store(&self, uid: Uid, fallback_id: Uid) -> Result<PartsStore, MetaError> {
        let node_stores = self.db.node_stores.clone();
        let chosen = self
            .db
            .write_or_rollback(move |transaction| {
                let node_stores = node_stores.clone();
                Box::pin(async move {
                    let receiving =
                        find_or_create(transaction, uid, NO_PART, fallback_id.get(), &node_stores).await?;
                    Ok(match receiving {
                        FindBlobOutcome::Found(blob) => TxEnd::Commit(PartsStore::Store(blob.store)),
                        FindBlobOutcome::Refused(refusal) => TxEnd::Rollback(match refusal {
                            BeginPartOutcome::OtherNode(store) => PartsStore::Store(store),
                            BeginPartOutcome::Conflict => PartsStore::Undecided,
                            _ => PartsStore::NotReceiving,
                        }),
                    })
                })
            })
            .await;
        match chosen {
            Err(MetaError::Conflict(_)) => Ok(PartsStore::Undecided),
            chosen => chosen,
        }
    }
}
