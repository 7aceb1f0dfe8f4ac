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
        let uids: Vec<_> = uids.into_iter().map(Uid::get).collect();
        let keys = keys_of_objects(&self.db.lookups, &uids).await?;
        let names = with_buckets(&self.db.lookups, keys).await?;
        Ok(names.into_iter().map(|(uid, name)| (Uid::from_db(uid), name)).collect())
    }
}

/// Uid of a file, id of its bucket, and its key.
type FileKey = (i64, i64, Vec<u8>);

/// Returns the names of those files among `uids` that are objects, or will become objects.
pub(crate) async fn present_and_future_names_of(
    connection: &impl ConnectionTrait,
    uids: Vec<i64>,
) -> Result<HashMap<i64, ObjectName>, DbErr> {
    let mut keys = keys_of_objects(connection, &uids).await?;
    if keys.len() < uids.len() {
        let uploads = object_upload::Entity::find()
            .select_only()
            .columns([
                object_upload::Column::Uid,
                object_upload::Column::BucketId,
                object_upload::Column::ObjectKey,
            ])
            .filter(object_upload::Column::Uid.is_in(uids));
        keys.extend(uploads.into_tuple::<FileKey>().all(connection).await?);
    }
    with_buckets(connection, keys).await
}

async fn keys_of_objects(connection: &impl ConnectionTrait, uids: &[i64]) -> Result<Vec<FileKey>, DbErr> {
    if uids.is_empty() {
        return Ok(Vec::new());
    }
    let objects = object::Entity::find()
        .select_only()
        .columns([object::Column::Uid, object::Column::BucketId, object::Column::ObjectKey])
        .filter(object::Column::Uid.is_in(uids.iter().copied()));
    objects.into_tuple().all(connection).await
}

async fn with_buckets(
    connection: &impl ConnectionTrait,
    keys: Vec<FileKey>,
) -> Result<HashMap<i64, ObjectName>, DbErr> {
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
