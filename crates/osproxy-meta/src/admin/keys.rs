//! Rows of keys with their files, for checks that they refer to each other.

use osproxy_types::uid::Uid;
use sea_orm::{
    ColumnTrait, EntityTrait, JoinType, QueryFilter, QueryOrder, QuerySelect, RelationDef, sea_query::Expr,
};

use crate::{
    AdminDb, FileState, MetaError, boxed_future,
    db::entities::{bucket, file, object, object_upload},
    objects::decode_key,
};

/// A key with its file: an object, or an upload that is to become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The file that the key refers to.
    pub uid: Uid,
    /// The key.
    pub key: String,
    /// The bucket that the key is in.
    pub bucket_id: Uid,
    /// Whether this bucket exists.
    pub has_bucket: bool,
    /// State of the file; `None` if it does not exist.
    pub state: Option<FileState>,
    /// The bucket that the file names.
    pub named: Option<Uid>,
}

/// Columns of a [`KeyRecord`]: uid, bucket, key, bucket of the key if it exists, state of the file and
/// bucket that it names.
type KeyRow = (i64, i64, Vec<u8>, Option<i64>, Option<FileState>, Option<i64>);

impl KeyRecord {
    fn from_row((uid, bucket_id, key, bucket, state, named): KeyRow) -> Self {
        Self {
            uid: Uid::from_db(uid),
            key: decode_key(key),
            bucket_id: Uid::from_db(bucket_id),
            has_bucket: bucket.is_some(),
            state,
            named: named.map(Uid::from_db),
        }
    }
}

impl AdminDb {
    /// Returns up to `limit` objects whose files have uids above `after`, ordered by uid.
    #[boxed_future]
    pub async fn object_keys(&self, after: i64, limit: u64) -> Result<Vec<KeyRecord>, MetaError> {
        let file: RelationDef =
            object::Entity::belongs_to(file::Entity).from(object::Column::Uid).to(file::Column::Uid).into();
        let bucket: RelationDef = object::Entity::belongs_to(bucket::Entity)
            .from(object::Column::BucketId)
            .to(bucket::Column::Id)
            .into();
        let rows = object::Entity::find()
            .select_only()
            .columns([object::Column::Uid, object::Column::BucketId, object::Column::ObjectKey])
            .column(bucket::Column::Id)
            .columns([file::Column::State, file::Column::BucketId])
            .join(JoinType::LeftJoin, file)
            .join(JoinType::LeftJoin, bucket)
            .filter(object::Column::Uid.gt(after))
            .order_by_asc(object::Column::Uid)
            .limit(limit);
        let rows: Vec<KeyRow> = rows.into_tuple().all(&self.db.reader).await?;
        Ok(rows.into_iter().map(KeyRecord::from_row).collect())
    }

    /// Like [`object_keys`](Self::object_keys), for uploads that are to become objects.
    #[boxed_future]
    pub async fn upload_keys(&self, after: i64, limit: u64) -> Result<Vec<KeyRecord>, MetaError> {
        let file: RelationDef = object_upload::Entity::belongs_to(file::Entity)
            .from(object_upload::Column::Uid)
            .to(file::Column::Uid)
            .into();
        let bucket: RelationDef = object_upload::Entity::belongs_to(bucket::Entity)
            .from(object_upload::Column::BucketId)
            .to(bucket::Column::Id)
            .into();
        let columns =
            [object_upload::Column::Uid, object_upload::Column::BucketId, object_upload::Column::ObjectKey];
        let rows = object_upload::Entity::find()
            .select_only()
            .columns(columns)
            .column(bucket::Column::Id)
            .columns([file::Column::State, file::Column::BucketId])
            .join(JoinType::LeftJoin, file)
            .join(JoinType::LeftJoin, bucket)
            .filter(object_upload::Column::Uid.gt(after))
            .order_by_asc(object_upload::Column::Uid)
            .limit(limit);
        let rows: Vec<KeyRow> = rows.into_tuple().all(&self.db.reader).await?;
        Ok(rows.into_iter().map(KeyRecord::from_row).collect())
    }

    /// Returns up to `limit` files with uids above `after`, ordered by uid, that name a bucket but have
    /// no key.
    #[boxed_future]
    pub async fn files_without_key(&self, after: i64, limit: u64) -> Result<Vec<Uid>, MetaError> {
        let object: RelationDef =
            file::Entity::belongs_to(object::Entity).from(file::Column::Uid).to(object::Column::Uid).into();
        let upload: RelationDef = file::Entity::belongs_to(object_upload::Entity)
            .from(file::Column::Uid)
            .to(object_upload::Column::Uid)
            .into();
        let uids = file::Entity::find()
            .select_only()
            .column(file::Column::Uid)
            .join(JoinType::LeftJoin, object)
            .join(JoinType::LeftJoin, upload)
            .filter(file::Column::Uid.gt(after))
            .filter(file::Column::BucketId.is_not_null())
            .filter(object::Column::Uid.is_null())
            .filter(object_upload::Column::Uid.is_null())
            .order_by_asc(file::Column::Uid)
            .limit(limit);
        let uids: Vec<i64> = uids.into_tuple().all(&self.db.reader).await?;
        Ok(uids.into_iter().map(Uid::from_db).collect())
    }

    /// Removes an object, but not its file. Safe only while nothing else writes to the database.
    #[boxed_future]
    pub async fn remove_object_key(&self, uid: Uid) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let object = object::Entity::delete_many().filter(object::Column::Uid.eq(uid.get()));
                    object.exec(transaction).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Removes the key that a file was to get. Safe only while nothing else writes to the database.
    #[boxed_future]
    pub async fn remove_upload_key(&self, uid: Uid) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    object_upload::Entity::delete_by_id(uid.get()).exec(transaction).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Sets the bucket that a file names. Safe only while nothing else writes to the database.
    #[boxed_future]
    pub async fn name_bucket(&self, uid: Uid, bucket_id: Option<Uid>) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    file::Entity::update_many()
                        .col_expr(file::Column::BucketId, Expr::value(bucket_id.map(Uid::get)))
                        .filter(file::Column::Uid.eq(uid.get()))
                        .exec(transaction)
                        .await?;
                    Ok(())
                })
            })
            .await
    }
}
