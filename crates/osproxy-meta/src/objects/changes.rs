//! Deletion and change of objects.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, sea_query::Expr};

use super::{
    NewObject, ObjectDb, ObjectRefusal,
    bind::{BoundFile, ObjectBinder, etag_of, find_locked, opaque_etag},
};
use crate::{
    FileState, MetaError,
    blobs::computed_digests,
    boxed_future,
    db::{
        entities::{blob, file, object},
        retry::retry_conflicts,
        write_batcher::TxEnd,
    },
};

/// Maximum attempts to give a key to a file if objects with this key are created meanwhile.
const MAX_ATTEMPTS: u32 = 5;

/// Outcome of giving a key to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachOutcome {
    /// The file has the key.
    Attached,
    /// The file has another key.
    HasKey,
    /// The file is in this state and has no content that can be read.
    NotStored(FileState),
    /// The key cannot be written.
    Refused(ObjectRefusal),
    /// The tenant has no file with this uid.
    Unknown,
}

impl ObjectDb {
    /// Deletes the object with this key, and its file if that was created as an object. Does
    /// nothing if there is none. `task_id` is an unused id for the task that deletes the content.
    #[boxed_future]
    pub async fn delete_object(&self, bucket_id: Uid, key: String, task_id: Uid) -> Result<(), MetaError> {
        let binder = ObjectBinder::new(&self.db, self.db.event_recorder());
        let evicting = binder.clone();
        let deleted = self.db.write(move |transaction| {
            let (binder, key) = (binder.clone(), key.clone());
            Box::pin(async move {
                binder.cancel_waiting(transaction, bucket_id.get(), &key).await?;
                let Some(object) = find_locked(transaction, bucket_id.get(), &key).await? else {
                    return Ok(());
                };
                object::Entity::delete_by_id((object.bucket_id, object.object_key.clone()))
                    .exec(transaction)
                    .await?;
                binder.release(transaction, &object, task_id).await
            })
        });
        let deleted = deleted.await;
        evicting.evict_replaced(&self.db);
        deleted
    }

    /// Sets the attributes of an object, unless it was replaced. Returns whether it is changed.
    #[boxed_future]
    pub async fn set_attributes(
        &self,
        bucket_id: Uid,
        key: String,
        uid: Uid,
        attributes: Option<String>,
    ) -> Result<bool, MetaError> {
        self.db
            .write(move |transaction| {
                let (key, attributes) = (key.clone(), attributes.clone());
                Box::pin(async move {
                    let changed = object::Entity::update_many()
                        .col_expr(object::Column::Attributes, Expr::value(attributes))
                        .filter(object::Column::BucketId.eq(bucket_id.get()))
                        .filter(object::Column::ObjectKey.eq(key.into_bytes()))
                        .filter(object::Column::Uid.eq(uid.get()))
                        .exec(transaction)
                        .await?;
                    Ok(changed.rows_affected == 1)
                })
            })
            .await
    }

    /// Gives a key to a stored file that has none. The file stays when the object is deleted or
    /// replaced.
    #[boxed_future]
    pub async fn attach(
        &self,
        tenant: Tenant,
        uid: Uid,
        object: NewObject,
    ) -> Result<AttachOutcome, MetaError> {
        retry_conflicts(MAX_ATTEMPTS, || self.try_attach(tenant.clone(), uid, object.clone())).await
    }

    async fn try_attach(
        &self,
        tenant: Tenant,
        uid: Uid,
        object: NewObject,
    ) -> Result<AttachOutcome, MetaError> {
        let binder = ObjectBinder::new(&self.db, self.db.event_recorder());
        let evicting = binder.clone();
        let attached = self.db.write_or_rollback(move |transaction| {
            let (binder, tenant, object) = (binder.clone(), tenant.clone(), object.clone());
            Box::pin(async move {
                Ok(match attach(transaction, &tenant, uid, &object, &binder).await? {
                    AttachOutcome::Attached => TxEnd::Commit(AttachOutcome::Attached),
                    other => TxEnd::Rollback(other),
                })
            })
        });
        let attached = attached.await;
        evicting.evict_replaced(&self.db);
        attached
    }
}

async fn attach(
    transaction: &DatabaseTransaction,
    tenant: &Tenant,
    uid: Uid,
    object: &NewObject,
    binder: &ObjectBinder,
) -> Result<AttachOutcome, DbErr> {
    let file = file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity);
    let Some((file, blob)) = file.one(transaction).await?.filter(|it| it.0.tenant == tenant.as_str()) else {
        return Ok(AttachOutcome::Unknown);
    };
    let (FileState::Stored, Some(blob)) = (file.state, blob) else {
        return Ok(AttachOutcome::NotStored(file.state));
    };
    if let Some(bucket_id) = file.bucket_id {
        let current = find_locked(transaction, object.bucket_id.get(), &object.key).await?;
        let has_it = bucket_id == object.bucket_id.get() && current.is_some_and(|it| it.uid == file.uid);
        return Ok(if has_it { AttachOutcome::Attached } else { AttachOutcome::HasKey });
    }
    let marked = file::Entity::update_many()
        .col_expr(file::Column::BucketId, Expr::value(object.bucket_id.get()))
        .filter(file::Column::Uid.eq(file.uid))
        .filter(file::Column::State.eq(FileState::Stored))
        .filter(file::Column::BucketId.is_null())
        .exec(transaction)
        .await?;
    if marked.rows_affected == 0 {
        return Ok(AttachOutcome::NotStored(FileState::Deleted));
    }
    let digests = computed_digests(&blob)?;
    let etag = digests.map_or_else(|| opaque_etag(file.uid), |digests| etag_of(&digests));
    let bound = BoundFile {
        uid: file.uid,
        tenant: &file.tenant,
        size: blob.size.unsigned_abs(),
        etag: &etag,
        owns_file: false,
    };
    let refusal = binder.bind(transaction, object, bound).await?;
    Ok(refusal.map_or(AttachOutcome::Attached, AttachOutcome::Refused))
}
