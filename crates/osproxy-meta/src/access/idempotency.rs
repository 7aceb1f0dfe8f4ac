//! Idempotency keys: requests that must not take effect twice.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, QueryFilter,
    QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{IdempotencyDb, boxed_future, db::entities::idempotency_key as key};

/// If a running request has not renewed its key for this time, a retry can take over the key. In
/// milliseconds.
const RENEWAL_TIMEOUT_MS: i64 = 60_000;
/// How long a key and its answer are kept, in milliseconds.
const RETENTION_MS: i64 = 24 * 3_600_000;

/// A request with an idempotency key.
#[derive(Clone, Debug)]
pub struct IdempotentRequest {
    /// The tenant; keys of different tenants do not collide.
    pub tenant: Tenant,
    /// The key, at most 255 bytes.
    pub key: String,
    /// Hash of method, path and body.
    pub fingerprint: [u8; 32],
    /// Unique id of this execution of the request, recorded as the owner of the key. Also the uid
    /// of the file that the request creates, unless an earlier execution has reserved another uid.
    pub owner: Uid,
}

/// The recorded answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedAnswer {
    /// HTTP status.
    pub status: u16,
    /// Value of the header `Location`, if any.
    pub location: Option<String>,
    /// JSON body.
    pub body: String,
}

/// Outcome of acquiring a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAcquisition {
    /// This execution owns the key and must run the request. It must create its file with this uid.
    /// If a file with this uid exists, an earlier execution has created it.
    Acquired(Uid),
    /// The same request was answered before.
    Answered(RecordedAnswer),
    /// A request with this key is running.
    InProgress,
    /// The key was used for a different request.
    DifferentRequest,
}

impl IdempotencyDb {
    /// Tries to acquire the key of a request.
    #[boxed_future]
    pub async fn acquire(&self, request: IdempotentRequest) -> Result<KeyAcquisition, MetaError> {
        let now = self.db.clock.now_ms();
        let acquired = self
            .db
            .write(move |transaction| {
                let request = request.clone();
                Box::pin(async move { acquire(transaction, &request, now).await })
            })
            .await;
        match acquired {
            // Another execution inserted the key at the same time.
            Err(MetaError::Conflict(_)) => Ok(KeyAcquisition::InProgress),
            acquired => acquired,
        }
    }

    /// Records the answer to a request, unless another execution has taken over the key.
    #[boxed_future]
    pub async fn record_answer(
        &self,
        request: IdempotentRequest,
        answer: RecordedAnswer,
    ) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                let (request, answer) = (request.clone(), answer.clone());
                Box::pin(async move {
                    key::Entity::update_many()
                        .col_expr(key::Column::State, Expr::value(key::State::Done))
                        .col_expr(key::Column::Status, Expr::value(i32::from(answer.status)))
                        .col_expr(key::Column::Location, Expr::value(answer.location))
                        .col_expr(key::Column::Body, Expr::value(answer.body))
                        .filter(is_owned(&request))
                        .exec(transaction)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Releases the key of a failed request, unless another execution has taken over the key. A
    /// retry of the request gets the same reserved uid, because the failed execution may have
    /// created the file.
    #[boxed_future]
    pub async fn release(&self, request: IdempotentRequest) -> Result<(), MetaError> {
        self.update_owned(request, key::Column::Owner, Expr::value("")).await.map(drop)
    }

    /// Renews the key for another minute. Returns `false` if another execution has taken over the
    /// key.
    #[boxed_future]
    pub async fn renew(&self, request: IdempotentRequest) -> Result<bool, MetaError> {
        let now = self.db.clock.now_ms();
        self.update_owned(request, key::Column::CreatedAt, Expr::value(now)).await
    }

    /// Reserves another uid for the file that the request creates. Returns `false` if another
    /// execution has taken over the key.
    #[boxed_future]
    pub async fn reserve_uid(&self, request: IdempotentRequest, uid: Uid) -> Result<bool, MetaError> {
        self.update_owned(request, key::Column::Uid, Expr::value(uid.get())).await
    }

    /// Updates a column of a key if this execution owns the key. Returns `false` otherwise.
    async fn update_owned(
        &self,
        request: IdempotentRequest,
        column: key::Column,
        value: Expr,
    ) -> Result<bool, MetaError> {
        self.db
            .write(move |transaction| {
                let update =
                    key::Entity::update_many().col_expr(column, value.clone()).filter(is_owned(&request));
                Box::pin(async move { Ok(update.exec(transaction).await?.rows_affected == 1) })
            })
            .await
    }

    /// Deletes up to `limit` keys whose retention time is over; returns the number of deleted keys.
    #[boxed_future]
    pub async fn purge(&self, limit: u64) -> Result<u64, MetaError> {
        let created_before = self.db.clock.now_ms().saturating_sub(RETENTION_MS);
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let expired = key::Entity::find()
                        .select_only()
                        .columns([key::Column::Tenant, key::Column::IdempotencyKey])
                        .filter(key::Column::CreatedAt.lt(created_before))
                        .limit(limit);
                    let expired: Vec<(String, String)> = expired.into_tuple().all(transaction).await?;
                    let mut purged = 0;
                    for (tenant, name) in expired {
                        let delete = key::Entity::delete_many()
                            .filter(key::Column::Tenant.eq(tenant))
                            .filter(key::Column::IdempotencyKey.eq(name))
                            // Another request may have acquired the key since it was selected.
                            .filter(key::Column::CreatedAt.lt(created_before));
                        purged += delete.exec(transaction).await?.rows_affected;
                    }
                    Ok(purged)
                })
            })
            .await
    }
}

async fn acquire(
    transaction: &DatabaseTransaction,
    request: &IdempotentRequest,
    now: i64,
) -> Result<KeyAcquisition, DbErr> {
    let row = key::Entity::find_by_id((request.tenant.to_string(), request.key.clone()))
        .lock_exclusive()
        .one(transaction)
        .await?;
    let Some(row) = row else {
        let row = key::ActiveModel {
            tenant: Set(request.tenant.to_string()),
            idempotency_key: Set(request.key.clone()),
            request: Set(request.fingerprint.to_vec()),
            owner: Set(owner_column(request)),
            state: Set(key::State::Running),
            status: Set(None),
            location: Set(None),
            body: Set(None),
            created_at: Set(now),
            uid: Set(Some(request.owner.get())),
        };
        key::Entity::insert(row).exec_without_returning(transaction).await?;
        return Ok(KeyAcquisition::Acquired(request.owner));
    };
    let age = now.saturating_sub(row.created_at);
    let is_same = row.request == request.fingerprint && age < RETENTION_MS;
    if age < RETENTION_MS {
        let is_released = row.state == key::State::Running && row.owner.is_empty();
        match row.state {
            _ if is_released => {}
            _ if !is_same => return Ok(KeyAcquisition::DifferentRequest),
            key::State::Done => return answer_from_row(row).map(KeyAcquisition::Answered),
            key::State::Running if age < RENEWAL_TIMEOUT_MS => return Ok(KeyAcquisition::InProgress),
            // The previous owner crashed or is very slow. If it still runs, both executions create
            // a file with the same uid, so only one of them succeeds.
            key::State::Running => {}
        }
    }
    let uid = row.uid.filter(|_| is_same).map_or(request.owner, Uid::from_db);
    let acquired = key::Entity::update_many()
        .col_expr(key::Column::Request, Expr::value(request.fingerprint.to_vec()))
        .col_expr(key::Column::Owner, Expr::value(owner_column(request)))
        .col_expr(key::Column::State, Expr::value(key::State::Running))
        .col_expr(key::Column::CreatedAt, Expr::value(now))
        .col_expr(key::Column::Uid, Expr::value(uid.get()))
        .filter(key::Column::Tenant.eq(request.tenant.as_str()))
        .filter(key::Column::IdempotencyKey.eq(request.key.as_str()))
        .filter(key::Column::Owner.eq(row.owner))
        .exec(transaction)
        .await?;
    Ok(if acquired.rows_affected == 1 { KeyAcquisition::Acquired(uid) } else { KeyAcquisition::InProgress })
}

fn owner_column(request: &IdempotentRequest) -> String {
    request.owner.to_string()
}

fn answer_from_row(row: key::Model) -> Result<RecordedAnswer, DbErr> {
    let corrupt = || DbErr::Custom("an idempotency key is marked done, but has no answer".to_owned());
    let status = row.status.and_then(|status| u16::try_from(status).ok()).ok_or_else(corrupt)?;
    Ok(RecordedAnswer { status, location: row.location, body: row.body.ok_or_else(corrupt)? })
}

/// Filter: the row of the key, if this execution owns the key.
fn is_owned(request: &IdempotentRequest) -> Condition {
    Condition::all()
        .add(key::Column::Tenant.eq(request.tenant.as_str()))
        .add(key::Column::IdempotencyKey.eq(request.key.as_str()))
        .add(key::Column::Owner.eq(owner_column(request)))
        .add(key::Column::State.eq(key::State::Running))
}
