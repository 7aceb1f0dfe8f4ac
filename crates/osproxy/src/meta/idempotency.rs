//! Requests that must not take effect twice, by the keys that clients give them.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, QueryFilter,
    QuerySelect, SqlErr, sea_query::Expr,
};

use super::{Meta, entities::idempotency_key as key};
use crate::{tenant::Tenant, uid::Uid};

/// How long an attempt may be silent before another one takes its key over, in milliseconds.
const PATIENCE: i64 = 60_000;
/// How long an answer is remembered, in milliseconds.
const REMEMBERED: i64 = 24 * 3_600_000;

/// A request under a key.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    /// Whose key it is: others may use the same.
    pub tenant: Tenant,
    /// The key, at most 255 bytes.
    pub key: String,
    /// What method, path and body hash to.
    pub request: [u8; 32],
    /// The attempt: a number that nobody has. What the request makes has it too, unless an earlier attempt has reserved
    /// another one.
    pub attempt: Uid,
}

/// What was answered to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedAnswer {
    /// HTTP status.
    pub status: u16,
    /// Where what was made is.
    pub location: Option<String>,
    /// JSON.
    pub body: String,
}

/// What there is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keyed {
    /// No answer; it is this attempt's now. What the request makes has this uid: if it is there, an earlier attempt has made it.
    Taken(Uid),
    /// This request was answered before.
    Answered(KeyedAnswer),
    /// This request is running.
    Running,
    /// Another request.
    Other,
}

impl Meta {
    /// Takes a key for a request, if nobody has it.
    pub async fn take_key(&self, request: KeyedRequest) -> Result<Keyed, DbErr> {
        let now = self.clock.now_ms();
        let taken = self
            .write(move |transaction| {
                let request = request.clone();
                Box::pin(async move { take(transaction, &request, now).await })
            })
            .await;
        match taken {
            // Another attempt was faster by a moment.
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                Ok(Keyed::Running)
            }
            taken => taken,
        }
    }

    /// Remembers what an attempt was answered, unless another one has taken its key over.
    pub async fn answer_key(&self, request: KeyedRequest, answer: KeyedAnswer) -> Result<(), DbErr> {
        self.write(move |transaction| {
            let (request, answer) = (request.clone(), answer.clone());
            Box::pin(async move {
                key::Entity::update_many()
                    .col_expr(key::Column::State, Expr::value(key::State::Done))
                    .col_expr(key::Column::Status, Expr::value(i32::from(answer.status)))
                    .col_expr(key::Column::Location, Expr::value(answer.location))
                    .col_expr(key::Column::Body, Expr::value(answer.body))
                    .filter(held(&request))
                    .exec(transaction)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Gives a key back whose request failed, unless another attempt has taken it over. The same request has the reserved
    /// uid again: nobody may know whether it took effect.
    pub async fn release_key(&self, request: KeyedRequest) -> Result<(), DbErr> {
        self.change_held(request, key::Column::Owner, Expr::value("")).await.map(drop)
    }

    /// Whether this attempt still has its key. If so, it has it for a further minute.
    pub async fn hold_key(&self, request: KeyedRequest) -> Result<bool, DbErr> {
        let now = self.clock.now_ms();
        self.change_held(request, key::Column::CreatedAt, Expr::value(now)).await
    }

    /// Reserves another uid for what the request makes. `false`: another attempt has taken the key over.
    pub async fn reserve_uid(&self, request: KeyedRequest, uid: Uid) -> Result<bool, DbErr> {
        self.change_held(request, key::Column::Uid, Expr::value(uid.get())).await
    }

    /// Changes a column of a key, if this attempt has it.
    async fn change_held(
        &self,
        request: KeyedRequest,
        column: key::Column,
        value: Expr,
    ) -> Result<bool, DbErr> {
        self.write(move |transaction| {
            let changing = key::Entity::update_many().col_expr(column, value.clone()).filter(held(&request));
            Box::pin(async move { Ok(changing.exec(transaction).await?.rows_affected == 1) })
        })
        .await
    }

    /// Forgets up to `limit` keys that were taken long ago, and says how many.
    pub async fn purge_keys(&self, limit: u64) -> Result<u64, DbErr> {
        let before = self.clock.now_ms().saturating_sub(REMEMBERED);
        self.write(move |transaction| {
            Box::pin(async move {
                let old = key::Entity::find()
                    .select_only()
                    .columns([key::Column::Tenant, key::Column::IdempotencyKey])
                    .filter(key::Column::CreatedAt.lt(before))
                    .limit(limit);
                let old: Vec<(String, String)> = old.into_tuple().all(transaction).await?;
                let mut purged = 0;
                for (tenant, name) in old {
                    let forgotten = key::Entity::delete_many()
                        .filter(key::Column::Tenant.eq(tenant))
                        .filter(key::Column::IdempotencyKey.eq(name))
                        // It may have been taken anew meanwhile.
                        .filter(key::Column::CreatedAt.lt(before));
                    purged += forgotten.exec(transaction).await?.rows_affected;
                }
                Ok(purged)
            })
        })
        .await
    }
}

async fn take(transaction: &DatabaseTransaction, request: &KeyedRequest, now: i64) -> Result<Keyed, DbErr> {
    let found = key::Entity::find_by_id((request.tenant.to_string(), request.key.clone()))
        .lock_exclusive()
        .one(transaction)
        .await?;
    let Some(found) = found else {
        let row = key::ActiveModel {
            tenant: Set(request.tenant.to_string()),
            idempotency_key: Set(request.key.clone()),
            request: Set(request.request.to_vec()),
            owner: Set(owner(request)),
            state: Set(key::State::Running),
            status: Set(None),
            location: Set(None),
            body: Set(None),
            created_at: Set(now),
            uid: Set(Some(request.attempt.get())),
        };
        key::Entity::insert(row).exec_without_returning(transaction).await?;
        return Ok(Keyed::Taken(request.attempt));
    };
    let age = now.saturating_sub(found.created_at);
    let is_same = found.request == request.request && age < REMEMBERED;
    if age < REMEMBERED {
        let is_given_back = found.state == key::State::Running && found.owner.is_empty();
        match found.state {
            _ if is_given_back => {}
            _ if !is_same => return Ok(Keyed::Other),
            key::State::Done => return answered(found).map(Keyed::Answered),
            key::State::Running if age < PATIENCE => return Ok(Keyed::Running),
            // Whoever had it died, or makes the same under the same uid.
            key::State::Running => {}
        }
    }
    let uid = found.uid.filter(|_| is_same).map_or(request.attempt, Uid::from_recorded);
    let taken = key::Entity::update_many()
        .col_expr(key::Column::Request, Expr::value(request.request.to_vec()))
        .col_expr(key::Column::Owner, Expr::value(owner(request)))
        .col_expr(key::Column::State, Expr::value(key::State::Running))
        .col_expr(key::Column::CreatedAt, Expr::value(now))
        .col_expr(key::Column::Uid, Expr::value(uid.get()))
        .filter(key::Column::Tenant.eq(request.tenant.as_str()))
        .filter(key::Column::IdempotencyKey.eq(request.key.as_str()))
        .filter(key::Column::Owner.eq(found.owner))
        .exec(transaction)
        .await?;
    Ok(if taken.rows_affected == 1 { Keyed::Taken(uid) } else { Keyed::Running })
}

fn owner(request: &KeyedRequest) -> String {
    request.attempt.to_string()
}

fn answered(row: key::Model) -> Result<KeyedAnswer, DbErr> {
    let damaged = || DbErr::Custom("an idempotency key is done without an answer".to_owned());
    let status = row.status.and_then(|status| u16::try_from(status).ok()).ok_or_else(damaged)?;
    Ok(KeyedAnswer { status, location: row.location, body: row.body.ok_or_else(damaged)? })
}

/// The row of a key as long as this attempt has it.
fn held(request: &KeyedRequest) -> Condition {
    Condition::all()
        .add(key::Column::Tenant.eq(request.tenant.as_str()))
        .add(key::Column::IdempotencyKey.eq(request.key.as_str()))
        .add(key::Column::Owner.eq(owner(request)))
        .add(key::Column::State.eq(key::State::Running))
}
