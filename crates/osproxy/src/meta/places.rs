//! Which store the bytes of a file lie in, or will.

use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, SqlErr};

use super::{
    BegunPart, Meta, NativePlace,
    collecting::collect,
    entities::{blob, file},
    write_queue::Verdict,
};
use crate::uid::Uid;

/// Which store the parts of an upload lie in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartsIn {
    /// In this one.
    Store(String),
    /// It has none yet: the first part decides.
    Undecided,
    /// The file takes no parts, or there is none.
    Nowhere,
}

impl Meta {
    /// Which store the bytes of a file lie in, whether it is complete or not; `None`: it has none.
    pub async fn store_of(&self, uid: Uid) -> Result<Option<String>, DbErr> {
        let store = file::Entity::find_by_id(uid.get())
            .inner_join(blob::Entity)
            .select_only()
            .column(blob::Column::Backend)
            .filter(blob::Column::State.ne(blob::State::Deleting));
        store.into_tuple().one(&self.reader).await
    }

    /// Which store the parts of a file lie in that is not complete.
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
            _ => PartsIn::Nowhere,
        })
    }

    /// Decides that the parts of a file will lie here, in the object to be, before there is one. Gives the store, the blob's
    /// number and the place; `None`: the file takes no such parts.
    pub async fn begin_places(
        &self,
        uid: Uid,
        spare: Uid,
    ) -> Result<Option<(String, i64, NativePlace)>, DbErr> {
        let here = self.here.clone();
        self.write_or_undo(move |transaction| {
            let here = here.clone();
            Box::pin(async move {
                let collected = collect(transaction, uid, 0, spare.get(), &here).await?;
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

    /// Decides that the parts of a file will lie here, unless that was decided already. The blob that collects them gets
    /// the number `spare` if the file's own is taken.
    pub async fn settle_parts(&self, uid: Uid, spare: Uid) -> Result<PartsIn, DbErr> {
        let here = self.here.clone();
        let settled = self
            .write_or_undo(move |transaction| {
                let here = here.clone();
                Box::pin(async move {
                    // No part has this number.
                    Ok(match collect(transaction, uid, 0, spare.get(), &here).await? {
                        Ok(collecting) => Verdict::Commit(PartsIn::Store(collecting.store)),
                        Err(BegunPart::Elsewhere(store)) => Verdict::Rollback(PartsIn::Store(store)),
                        Err(BegunPart::Changed) => Verdict::Rollback(PartsIn::Undecided),
                        Err(_) => Verdict::Rollback(PartsIn::Nowhere),
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
