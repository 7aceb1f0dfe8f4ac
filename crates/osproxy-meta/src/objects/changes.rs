//! Deletion and change of objects.

use std::sync::Arc;

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter, QuerySelect,
    sea_query::Expr,
};

use super::{
    NewObject, ObjectCondition, ObjectDb, ObjectRefusal,
    bind::{BoundFile, ObjectBinder, decide, etag_of, find_locked, opaque_etag},
};
use crate::{
    FileState, MetaError,
    access::quotas::{ChargeOutcome, Quotas, object_bytes},
    blobs::computed_digests,
    boxed_future,
    db::{
        entities::{blob, file, object, object_upload},
        retry::retry_conflicts,
        write_batcher::TxEnd,
    },
    files::delete::FileTransition,
};

/// Maximum attempts to give a key to a file if objects with this key are created meanwhile.
const MAX_ATTEMPTS: u32 = 5;

/// Returns the new attributes for these.
pub type AttributesEdit = Arc<dyn Fn(Option<&str>) -> Option<String> + Send + Sync>;

/// Outcome of editing the attributes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditAttributesOutcome {
    /// Edited.
    Edited,
    /// The change would exceed the tenant's quota.
    OverQuota,
    /// The file is no object: it was deleted or replaced.
    Unknown,
}

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
    /// The key would exceed the tenant's quota.
    OverQuota,
    /// The tenant has no file with this uid.
    Unknown,
}

impl ObjectDb {
    /// Deletes the object with this key, and its file if that was created as an object. Does
    /// nothing if there is none. `task_id` is an unused id for the task that deletes the content.
    /// Returns why the object does not meet `condition`; then nothing changes.
    #[boxed_future]
    pub async fn delete_object(
        &self,
        bucket_id: Uid,
        key: String,
        condition: Option<ObjectCondition>,
        task_id: Uid,
    ) -> Result<Option<ObjectRefusal>, MetaError> {
        let binder = ObjectBinder::new(&self.db, self.db.event_recorder());
        let evicting = binder.clone();
        let deleted = self.db.write(move |transaction| {
            let (binder, key, condition) = (binder.clone(), key.clone(), condition.clone());
            Box::pin(async move {
                if let Some(condition) = &condition
                    && let Some(refusal) = decide(transaction, bucket_id.get(), &key, condition).await?
                {
                    return Ok(Some(refusal));
                }
                binder.cancel_waiting(transaction, bucket_id.get(), &key).await?;
                let Some(object) = find_locked(transaction, bucket_id.get(), &key).await? else {
                    return Ok(None);
                };
                object::Entity::delete_by_id((object.bucket_id, object.object_key.clone()))
                    .exec(transaction)
                    .await?;
                let transition = FileTransition::delete_with_object();
                binder.release(transaction, &object, task_id, transition).await?;
                Ok(None)
            })
        });
        let deleted = deleted.await;
        evicting.evict_replaced(&self.db);
        deleted
    }

    /// Edits the attributes of the object that the file `uid` is, or will be when it is processed.
    #[boxed_future]
    pub async fn edit_attributes(
        &self,
        uid: Uid,
        edit: AttributesEdit,
    ) -> Result<EditAttributesOutcome, MetaError> {
        let quotas = self.db.quotas.clone();
        self.db
            .write_or_rollback(move |transaction| {
                let (edit, quotas) = (edit.clone(), quotas.clone());
                Box::pin(async move {
                    Ok(match edit_attributes(transaction, uid, &edit, &quotas).await? {
                        EditAttributesOutcome::Edited => TxEnd::Commit(EditAttributesOutcome::Edited),
                        other => TxEnd::Rollback(other),
                    })
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
        let quotas = self.db.quotas.clone();
        let binder = ObjectBinder::new(&self.db, self.db.event_recorder());
        let evicting = binder.clone();
        let attached = self.db.write_or_rollback(move |transaction| {
            let (binder, tenant, object) = (binder.clone(), tenant.clone(), object.clone());
            let quotas = quotas.clone();
            Box::pin(async move {
                Ok(match attach(transaction, &tenant, uid, &object, &binder, &quotas).await? {
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
    quotas: &Quotas,
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
        .col_expr(file::Column::RecordBytes, Expr::col(file::Column::RecordBytes).add(object.charge()))
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
    if let Some(refusal) = binder.bind(transaction, object, bound).await? {
        return Ok(AttachOutcome::Refused(refusal));
    }
    Ok(match quotas.charge(transaction, &file.tenant, object.charge()).await? {
        ChargeOutcome::Allowed => AttachOutcome::Attached,
        ChargeOutcome::OverQuota => AttachOutcome::OverQuota,
    })
}

async fn edit_attributes(
    transaction: &DatabaseTransaction,
    uid: Uid,
    edit: &AttributesEdit,
    quotas: &Quotas,
) -> Result<EditAttributesOutcome, DbErr> {
    // Locked, so that another edit starts from the result of this one, and processing does not make
    // the file an object meanwhile.
    let Some(file) = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await? else {
        return Ok(EditAttributesOutcome::Unknown);
    };
    let object = object::Entity::find().filter(object::Column::Uid.eq(uid.get())).lock_exclusive();
    let (old, new) = if let Some(object) = object.one(transaction).await? {
        let new = edit(object.attributes.as_deref());
        object::Entity::update_many()
            .col_expr(object::Column::Attributes, Expr::value(new.clone()))
            .filter(object::Column::Uid.eq(uid.get()))
            .exec(transaction)
            .await?;
        (object.attributes, new)
    } else {
        let Some(waiting) = object_upload::Entity::find_by_id(uid.get()).one(transaction).await? else {
            return Ok(EditAttributesOutcome::Unknown);
        };
        let new = edit(waiting.attributes.as_deref());
        object_upload::Entity::update_many()
            .col_expr(object_upload::Column::Attributes, Expr::value(new.clone()))
            .filter(object_upload::Column::Uid.eq(uid.get()))
            .exec(transaction)
            .await?;
        (waiting.attributes, new)
    };
    let growth = object_bytes("", new.as_deref()) - object_bytes("", old.as_deref());
    file::Entity::update_many()
        .col_expr(file::Column::RecordBytes, Expr::value(file.record_bytes + growth))
        .filter(file::Column::Uid.eq(uid.get()))
        .exec(transaction)
        .await?;
    Ok(match quotas.charge(transaction, &file.tenant, growth).await? {
        ChargeOutcome::Allowed => EditAttributesOutcome::Edited,
        ChargeOutcome::OverQuota => EditAttributesOutcome::OverQuota,
    })
}
