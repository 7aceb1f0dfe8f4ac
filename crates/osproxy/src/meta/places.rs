//! Which store has, or will have, the bytes of a file.

use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, SqlErr};

use super::{
    BegunPart, Meta, NativePlace,
    collecting::collect,
    entities::{blob, file},
    write_queue::Verdict,
};
use crate::uid::Uid;

/// The store of the parts of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartsIn {
    /// This store.
    Store(String),
    /// None yet: the first part decides.
    Undecided,
    /// The file takes no parts, or does not exist.
    NotReceiving,
}

impl Meta {
    /// Returns the store of a file's bytes, whether the upload is complete or not; `None` if the
    /// file has no bytes yet.
    pub async fn store_of(&self, uid: Uid) -> Result<Option<String>, DbErr> {
        let store = file::Entity::find_by_id(uid.get())
            .inner_join(blob::Entity)
            .select_only()
            .column(blob::Column::Backend)
            .filter(blob::Column::State.ne(blob::State::Deleting));
        store.into_tuple().one(&self.reader).await
    }

    /// Returns the store of the parts of a file that is not complete.
    pub async fn parts_in(&self, uid: Uid) -> Result<PartsIn, DbErr> {
        let found = file::Entity::find_by_id(uid.get())
            .left_join(blob::Entity)
            .select_only()
            .column(file::Column::State)
            .column(blob::Column::Backend);
        let found: Option<(file::State, Option<String>)> = found.into_tuple().one(&self.reader).await?;
        Ok(match found {
            Some((file::State::Receiving | file::State::Completing, Some(store))) => PartsIn::Store(store),
            Some((file::State::Pending | file::State::Receiving, None)) => PartsIn::Undecided,
            _ => PartsIn::NotReceiving,
        })
    }

    /// Creates the blob that collects the parts of a file, with a slot in a preallocated file of a
    /// local store, before the first part arrives. Returns the store, the blob's id and the slot;
    /// `None` if the parts do not go into a preallocated file here.
    pub async fn begin_places(
        &self,
        uid: Uid,
        fallback_id: Uid,
    ) -> Result<Option<(String, i64, NativePlace)>, DbErr> {
        let here = self.node_stores.clone();
        self.write_or_undo(move |transaction| {
            let here = here.clone();
            Box::pin(async move {
                let collected = collect(transaction, uid, 0, fallback_id.get(), &here).await?;
                let place = match &collected {
                    Ok(collecting) => collecting.place(transaction, &here).await?,
                    Err(_) => None,
                };
                Ok(match (collected, place) {
                    (Ok(collecting), Some(place)) => {
                        Verdict::Commit(Some((collecting.store, collecting.blob_id, place)))
                    }
                    _ => Verdict::Rollback(None),
                })
            })
        })
        .await
    }

    /// Decides that this node stores the parts of a file, unless a store is already chosen. The
    /// blob that collects them gets the id `spare` if the id equal to the uid is taken.
    pub async fn settle_parts(&self, uid: Uid, fallback_id: Uid) -> Result<PartsIn, DbErr> {
        let here = self.node_stores.clone();
        let settled = self
            .write_or_undo(move |transaction| {
                let here = here.clone();
                Box::pin(async move {
                    // No part has number 0.
                    Ok(match collect(transaction, uid, 0, fallback_id.get(), &here).await? {
                        Ok(collecting) => Verdict::Commit(PartsIn::Store(collecting.store)),
                        Err(BegunPart::OtherNode(store)) => Verdict::Rollback(PartsIn::Store(store)),
                        Err(BegunPart::Conflict) => Verdict::Rollback(PartsIn::Undecided),
                        Err(_) => Verdict::Rollback(PartsIn::NotReceiving),
                    })
                })
            })
            .await;
        match settled {
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                Ok(PartsIn::Undecided)
            }
            settled => settled,
        }
    }
}
