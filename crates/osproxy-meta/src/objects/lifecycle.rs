//! Lifecycle of buckets: which rules are due, and the deletion of objects by them.

use osproxy_types::uid::Uid;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};

use super::{
    ListedObject, ObjectDb,
    bind::{ObjectBinder, find_locked},
};
use crate::{
    EventKind, MetaError, boxed_future,
    db::entities::{bucket, object},
    files::delete::FileTransition,
};

/// A bucket whose lifecycle rules are to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleBucket {
    /// Id.
    pub id: Uid,
    /// Name.
    pub name: String,
    /// The rules, in a format of the caller.
    pub lifecycle: String,
    /// Since when they are due, in milliseconds since the Unix epoch. Changes with the rules.
    pub due_at: i64,
    /// How far they are applied, in a format of the caller.
    pub position: Option<String>,
}

impl ObjectDb {
    /// Returns the bucket whose lifecycle rules have been due for the longest time at `now`, in
    /// milliseconds since the Unix epoch.
    #[boxed_future]
    pub async fn due_lifecycle(&self, now: i64) -> Result<Option<LifecycleBucket>, MetaError> {
        let due = bucket::Entity::find()
            .filter(bucket::Column::LifecycleDueAt.lte(now))
            .order_by_asc(bucket::Column::LifecycleDueAt)
            .limit(1);
        Ok(due.one(&self.db.reader).await?.map(|row| LifecycleBucket {
            id: Uid::from_db(row.id),
            name: row.name,
            lifecycle: row.lifecycle.unwrap_or_default(),
            due_at: row.lifecycle_due_at.unwrap_or_default(),
            position: row.lifecycle_position,
        }))
    }

    /// Records how far the rules of a bucket are applied, and when they are due next. Returns `false`
    /// if the rules were changed or the bucket was deleted.
    #[boxed_future]
    pub async fn save_lifecycle(
        &self,
        bucket: &LifecycleBucket,
        due_at: i64,
        position: Option<String>,
    ) -> Result<bool, MetaError> {
        let (id, known_due_at) = (bucket.id, bucket.due_at);
        self.db
            .write(move |transaction| {
                let position = position.clone();
                Box::pin(async move {
                    let saved = bucket::Entity::update_many()
                        .col_expr(bucket::Column::LifecyclePosition, Expr::value(position))
                        .col_expr(bucket::Column::LifecycleDueAt, Expr::value(due_at))
                        .filter(bucket::Column::Id.eq(id.get()))
                        .filter(bucket::Column::LifecycleDueAt.eq(known_due_at))
                        .exec(transaction)
                        .await?;
                    Ok(saved.rows_affected == 1)
                })
            })
            .await
    }

    /// Deletes an object that has expired, and its file if that was created as an object. Returns
    /// `false` if the object was replaced or deleted meanwhile. `task_id` is an unused id for the
    /// task that deletes the content.
    #[boxed_future]
    pub async fn expire_object(
        &self,
        bucket_id: Uid,
        expired: ListedObject,
        task_id: Uid,
    ) -> Result<bool, MetaError> {
        let binder = ObjectBinder::new(&self.db, self.db.event_recorder());
        let evicting = binder.clone();
        let deleted = self.db.write(move |transaction| {
            let (binder, expired) = (binder.clone(), expired.clone());
            Box::pin(async move {
                let object = find_locked(transaction, bucket_id.get(), &expired.key).await?;
                let is_same = |object: &object::Model| {
                    object.uid == expired.uid.get() && object.modified_at == expired.modified_at
                };
                let Some(object) = object.filter(is_same) else {
                    return Ok(false);
                };
                object::Entity::delete_by_id((object.bucket_id, object.object_key.clone()))
                    .exec(transaction)
                    .await?;
                let transition =
                    FileTransition { event: EventKind::FileExpired, ..FileTransition::delete_with_object() };
                binder.release(transaction, &object, task_id, transition).await?;
                Ok(true)
            })
        });
        let deleted = deleted.await;
        evicting.evict_replaced(&self.db);
        deleted
    }
}
