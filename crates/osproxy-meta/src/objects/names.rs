//! The buckets and keys of files.

use std::collections::{BTreeSet, HashMap};

use osproxy_types::uid::Uid;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};

use super::{ObjectDb, ObjectName, decode_key};
use crate::{
    MetaError, boxed_future,
    db::entities::{bucket, object, object_upload},
};

impl ObjectDb {
    /// Returns the names of those files among `uids` that are objects.
    #[boxed_future]
    pub async fn names_of(&self, uids: Vec<Uid>) -> Result<HashMap<Uid, ObjectName>, MetaError> {
        let uids = uids.into_iter().map(Uid::get).collect();
        let names = names_of(&self.db.lookups, uids, false).await?;
        Ok(names.into_iter().map(|(uid, name)| (Uid::from_db(uid), name)).collect())
    }
}

/// Returns the names of those files among `uids` that are objects; with `or_will_be`, also of those
/// that will become objects.
pub(crate) async fn names_of(
    connection: &impl ConnectionTrait,
    uids: Vec<i64>,
    or_will_be: bool,
) -> Result<HashMap<i64, ObjectName>, DbErr> {
    if uids.is_empty() {
        return Ok(HashMap::new());
    }
    let objects = object::Entity::find()
        .select_only()
        .columns([object::Column::Uid, object::Column::BucketId, object::Column::ObjectKey])
        .filter(object::Column::Uid.is_in(uids.iter().copied()));
    let mut keys: Vec<(i64, i64, Vec<u8>)> = objects.into_tuple().all(connection).await?;
    if or_will_be && keys.len() < uids.len() {
        let uploads = object_upload::Entity::find()
            .select_only()
            .columns([
                object_upload::Column::Uid,
                object_upload::Column::BucketId,
                object_upload::Column::ObjectKey,
            ])
            .filter(object_upload::Column::Uid.is_in(uids));
        keys.extend(uploads.into_tuple::<(i64, i64, Vec<u8>)>().all(connection).await?);
    }
    let ids: BTreeSet<_> = keys.iter().map(|(_, bucket_id, _)| *bucket_id).collect();
    let buckets = bucket_names(connection, ids).await?;
    let named = keys.into_iter().filter_map(|(uid, bucket_id, key)| {
        Some((uid, ObjectName { bucket: buckets.get(&bucket_id)?.clone(), key: decode_key(key) }))
    });
    Ok(named.collect())
}

/// Returns the name of the object with this key; `None` if there is no such bucket.
pub(crate) async fn name_of_key(
    connection: &impl ConnectionTrait,
    bucket_id: i64,
    key: &[u8],
) -> Result<Option<ObjectName>, DbErr> {
    let bucket = bucket_names(connection, BTreeSet::from([bucket_id])).await?.remove(&bucket_id);
    Ok(bucket.map(|bucket| ObjectName { bucket, key: decode_key(key.to_vec()) }))
}

async fn bucket_names(
    connection: &impl ConnectionTrait,
    ids: BTreeSet<i64>,
) -> Result<HashMap<i64, String>, DbErr> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let buckets = bucket::Entity::find()
        .select_only()
        .columns([bucket::Column::Id, bucket::Column::Name])
        .filter(bucket::Column::Id.is_in(ids));
    Ok(buckets.into_tuple::<(i64, String)>().all(connection).await?.into_iter().collect())
}
