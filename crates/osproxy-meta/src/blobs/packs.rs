//! Dead space in packs, and the relocation of packed objects.

use std::collections::HashMap;

use osproxy_storage::Key;
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict},
};

use crate::MetaError;
use crate::{
    BlobDb, boxed_future,
    db::entities::{blob, pack},
    now_ms,
};

/// The relocation of a packed object.
#[derive(Clone, Debug)]
pub struct PackedMove {
    /// The blob of the object.
    pub blob_id: i64,
    /// The key of the object that the blob refers to until now.
    pub from: Key,
    /// The key of the copy, which is durable.
    pub to: Key,
}

/// Adds a deleted object to the dead space of its pack. Does nothing for an object that is not
/// packed.
pub(crate) async fn count_dead(
    transaction: &DatabaseTransaction,
    store: &str,
    object_key: &str,
) -> Result<(), DbErr> {
    let Some(location) = Key::parse(object_key).ok().and_then(|key| key.pack_location()) else {
        return Ok(());
    };
    add_dead(transaction, store, location.pack, location.occupied()).await
}

async fn add_dead(
    transaction: &DatabaseTransaction,
    store: &str,
    number: u32,
    bytes: u64,
) -> Result<(), DbErr> {
    let bytes = bytes.cast_signed();
    let row = pack::ActiveModel {
        store: Set(store.to_owned()),
        number: Set(number.into()),
        dead: Set(bytes),
        dead_since: Set(now_ms()),
        emptied_at: Set(None),
    };
    let add = OnConflict::columns([pack::Column::Store, pack::Column::Number])
        .value(pack::Column::Dead, Expr::col((pack::Entity, pack::Column::Dead)).add(bytes))
        .to_owned();
    pack::Entity::insert(row).on_conflict(add).exec_without_returning(transaction).await?;
    Ok(())
}

/// The states of blobs whose objects are kept.
const LIVE: [blob::State; 2] = [blob::State::Stored, blob::State::Quarantined];

impl BlobDb {
    /// Returns the numbers of up to `limit` packs of a store, those with the most dead space first,
    /// that were not emptied yet and have at
    /// least `min_dead` bytes of dead space, or have any since before `dead_before` (milliseconds
    /// since the Unix epoch).
    #[boxed_future]
    pub async fn packs_to_compact(
        &self,
        store: &str,
        min_dead: u64,
        dead_before: i64,
        limit: u64,
    ) -> Result<Vec<u32>, MetaError> {
        let numbers = pack::Entity::find()
            .select_only()
            .column(pack::Column::Number)
            .filter(pack::Column::Store.eq(store))
            .filter(
                pack::Column::Dead.gte(min_dead.cast_signed()).or(pack::Column::DeadSince.lt(dead_before)),
            )
            .filter(pack::Column::EmptiedAt.is_null())
            .order_by_desc(pack::Column::Dead)
            .limit(limit);
        let numbers: Vec<i64> = numbers.into_tuple().all(&self.db.reader).await?;
        Ok(numbers.into_iter().filter_map(|number| u32::try_from(number).ok()).collect())
    }

    /// Adds an object that got no row to the dead space of its pack.
    #[boxed_future]
    pub async fn count_dead_object(&self, store: &str, key: Key) -> Result<(), MetaError> {
        let store = store.to_owned();
        self.db
            .write(move |transaction| {
                let (store, key) = (store.clone(), key.clone());
                Box::pin(async move { count_dead(transaction, &store, key.as_str()).await })
            })
            .await
    }

    /// Returns the object keys of the stored blobs among `ids` in a store.
    #[boxed_future]
    pub async fn stored_keys(&self, store: &str, ids: Vec<i64>) -> Result<HashMap<i64, String>, MetaError> {
        let keys = blob::Entity::find()
            .select_only()
            .columns([blob::Column::Id, blob::Column::ObjectKey])
            .filter(blob::Column::Id.is_in(ids))
            .filter(blob::Column::Backend.eq(store))
            .filter(blob::Column::State.is_in(LIVE));
        let keys: Vec<(i64, String)> = keys.into_tuple().all(&self.db.reader).await?;
        Ok(keys.into_iter().collect())
    }

    /// Makes blobs refer to the copies of their objects. A blob that was deleted meanwhile stays as
    /// it is, and its copy becomes dead space. Does not invalidate caches: the caller keeps the old
    /// objects for longer than entries are cached.
    #[boxed_future]
    pub async fn move_packed(&self, store: &str, moves: Vec<PackedMove>) -> Result<(), MetaError> {
        let name = store.to_owned();
        self.db
            .write(move |transaction| {
                let (store, moves) = (name.clone(), moves.clone());
                Box::pin(async move {
                    for PackedMove { blob_id, from, to } in moves {
                        let updated = blob::Entity::update_many()
                            .col_expr(blob::Column::ObjectKey, Expr::value(to.as_str()))
                            .filter(blob::Column::Id.eq(blob_id))
                            .filter(blob::Column::ObjectKey.eq(from.as_str()))
                            .filter(blob::Column::State.is_in(LIVE))
                            .exec(transaction)
                            .await?;
                        if updated.rows_affected == 0 {
                            count_dead(transaction, &store, to.as_str()).await?;
                        }
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Records that no blob refers to a pack any more.
    #[boxed_future]
    pub async fn mark_pack_emptied(&self, store: &str, number: u32) -> Result<(), MetaError> {
        let (store, now) = (store.to_owned(), self.db.clock.now_ms());
        self.db
            .write(move |transaction| {
                let store = store.clone();
                Box::pin(async move {
                    pack::Entity::update_many()
                        .col_expr(pack::Column::EmptiedAt, Expr::value(now))
                        .filter(pack::Column::Store.eq(store))
                        .filter(pack::Column::Number.eq(i64::from(number)))
                        .exec(transaction)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Returns the numbers of up to `limit` packs of a store that were emptied before `before`, in
    /// milliseconds since the Unix epoch.
    #[boxed_future]
    pub async fn emptied_packs(&self, store: &str, before: i64, limit: u64) -> Result<Vec<u32>, MetaError> {
        let numbers = pack::Entity::find()
            .select_only()
            .column(pack::Column::Number)
            .filter(pack::Column::Store.eq(store))
            .filter(pack::Column::EmptiedAt.lt(before))
            .order_by_asc(pack::Column::Number)
            .limit(limit);
        let numbers: Vec<i64> = numbers.into_tuple().all(&self.db.reader).await?;
        Ok(numbers.into_iter().filter_map(|number| u32::try_from(number).ok()).collect())
    }

    /// Deletes the row of a pack whose file was removed.
    #[boxed_future]
    pub async fn forget_pack(&self, store: &str, number: u32) -> Result<(), MetaError> {
        let store = store.to_owned();
        self.db
            .write(move |transaction| {
                let store = store.clone();
                Box::pin(async move {
                    pack::Entity::delete_by_id((store, i64::from(number))).exec(transaction).await?;
                    Ok(())
                })
            })
            .await
    }
}
