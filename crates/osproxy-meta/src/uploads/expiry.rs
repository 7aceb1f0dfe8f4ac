//! Expires open uploads, extends their expiry, and aborts uploads at the client's request.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};

use crate::MetaError;
use crate::{
    DeleteOutcome, EventKind, FileState, UploadDb, boxed_future,
    db::entities::file,
    files::delete::{self, FileTransition},
};

/// States of an upload that is not complete.
pub(crate) const OPEN_STATES: [FileState; 4] =
    [FileState::Pending, FileState::Receiving, FileState::Completing, FileState::Partial];

impl UploadDb {
    /// Moves an open upload to state `expired` if its expiry is before `expired_before`, in
    /// milliseconds since the Unix epoch. Does not change an upload that was renewed in the
    /// meantime. If no other file shares its blob, enqueues the task that deletes the blob, as
    /// [`FileDb::delete`](crate::FileDb::delete) does. `task_id` is an unused id for that task.
    #[boxed_future]
    pub async fn expire(
        &self,
        uid: Uid,
        expired_before: i64,
        task_id: Uid,
    ) -> Result<DeleteOutcome, MetaError> {
        let transition = FileTransition {
            from: OPEN_STATES.to_vec(),
            to: FileState::Expired,
            expired_before: Some(expired_before),
            event: EventKind::UploadExpired,
        };
        delete::remove(&self.db, None, uid, transition, task_id).await
    }

    /// Extends the expiry of a tenant's open upload to `expires_at`, in milliseconds since the Unix
    /// epoch; never shortens it. Returns `false` if the tenant has no such open upload.
    #[boxed_future]
    pub async fn renew(&self, tenant: Tenant, uid: Uid, expires_at: i64) -> Result<bool, MetaError> {
        self.db
            .write(move |transaction| {
                let tenant = tenant.clone();
                Box::pin(async move {
                    let later_expiry =
                        Expr::case(Expr::col(file::Column::ExpiresAt).lt(expires_at), expires_at)
                            .finally(Expr::col(file::Column::ExpiresAt));
                    let renewed = file::Entity::update_many()
                        .col_expr(file::Column::ExpiresAt, later_expiry.into())
                        .filter(file::Column::Uid.eq(uid.get()))
                        .filter(file::Column::Tenant.eq(tenant.as_str()))
                        .filter(file::Column::State.is_in(OPEN_STATES));
                    Ok(renewed.exec(transaction).await?.rows_affected == 1)
                })
            })
            .await
    }

    /// Deletes an open upload at the client's request. If no other file shares its blob, enqueues
    /// the task that deletes the blob, as [`FileDb::delete`](crate::FileDb::delete) does. `task_id`
    /// is an unused id for that task.
    #[boxed_future]
    pub async fn abort(&self, uid: Uid, task_id: Uid) -> Result<DeleteOutcome, MetaError> {
        let transition = FileTransition { from: OPEN_STATES.to_vec(), ..FileTransition::delete() };
        delete::remove(&self.db, None, uid, transition, task_id).await
    }

    /// Expires an upload that still receives content, whatever its expiry. `task_id` is an unused id
    /// for the task that deletes the content.
    #[boxed_future]
    pub async fn expire_now(&self, uid: Uid, task_id: Uid) -> Result<DeleteOutcome, MetaError> {
        let transition = FileTransition {
            from: vec![FileState::Pending, FileState::Receiving],
            to: FileState::Expired,
            expired_before: None,
            event: EventKind::UploadExpired,
        };
        delete::remove(&self.db, None, uid, transition, task_id).await
    }

    /// Returns up to `limit` open uploads that expire before `at`, in milliseconds since the Unix
    /// epoch; the earliest first.
    #[boxed_future]
    pub async fn expired(&self, at: i64, limit: u64) -> Result<Vec<Uid>, MetaError> {
        let expired = file::Entity::find()
            .select_only()
            .column(file::Column::Uid)
            .filter(file::Column::State.is_in(OPEN_STATES))
            .filter(file::Column::ExpiresAt.lt(at))
            .order_by_asc(file::Column::ExpiresAt)
            .limit(limit);
        let uids: Vec<i64> = expired.into_tuple().all(&self.db.reader).await?;
        Ok(uids.into_iter().map(Uid::from_db).collect())
    }
}
