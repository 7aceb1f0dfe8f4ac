//! Requests that must not take effect twice, by the keys that clients give them.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, QueryFilter,
    QuerySelect, SqlErr, sea_query::Expr,
};

use super::{Meta, entities::idempotency_key as key};
use crate::tenant::Tenant;

/// How long an attempt may be silent before another one takes its key over, in milliseconds.
const PATIENCE: i64 = 60_000;
/// How long an answer is remembered, in milliseconds.
const REMEMBERED: i64 = 24 * 3_600_000;

/// A request under a key.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    /// Whose key it is: others may use the same.
    pub tenant: Tenant,
    /// The key, as the client gave it.
    pub key: String,
    /// What method, path and body hash to.
    pub request: [u8; 32],
    /// The attempt; no two have the same.
    pub owner: String,
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
    /// Nothing; it is this attempt's now.
    Taken,
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

    /// Gives a key back whose request took no effect, unless another attempt has taken it over.
    pub async fn release_key(&self, request: KeyedRequest) -> Result<(), DbErr> {
        self.write(move |transaction| {
            let request = request.clone();
            Box::pin(async move {
                key::Entity::delete_many().filter(held(&request)).exec(transaction).await?;
                Ok(())
            })
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
            owner: Set(request.owner.clone()),
            state: Set(key::State::Running),
            status: Set(None),
            location: Set(None),
            body: Set(None),
            created_at: Set(now),
        };
        key::Entity::insert(row).exec_without_returning(transaction).await?;
        return Ok(Keyed::Taken);
    };
    let age = now.saturating_sub(found.created_at);
    let is_forgotten = age >= REMEMBERED;
    if !is_forgotten {
        if found.request != request.request {
            return Ok(Keyed::Other);
        }
        match found.state {
            key::State::Done => return answered(found).map(Keyed::Answered),
            key::State::Running if age < PATIENCE => return Ok(Keyed::Running),
            // Whoever had it died, or will find out that it is another's now.
            key::State::Running => {}
        }
    }
    let taken = key::Entity::update_many()
        .col_expr(key::Column::Request, Expr::value(request.request.to_vec()))
        .col_expr(key::Column::Owner, Expr::value(request.owner.as_str()))
        .col_expr(key::Column::State, Expr::value(key::State::Running))
        .col_expr(key::Column::CreatedAt, Expr::value(now))
        .filter(key::Column::Tenant.eq(request.tenant.as_str()))
        .filter(key::Column::IdempotencyKey.eq(request.key.as_str()))
        .filter(key::Column::Owner.eq(found.owner))
        .exec(transaction)
        .await?;
    Ok(if taken.rows_affected == 1 { Keyed::Taken } else { Keyed::Running })
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
        .add(key::Column::Owner.eq(request.owner.as_str()))
        .add(key::Column::State.eq(key::State::Running))
}
