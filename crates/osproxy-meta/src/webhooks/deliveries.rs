//! The log of deliveries, which is also the queue of retries.

use std::ops::Range;

use osproxy_types::uid::Uid;
use sea_orm::{
    ActiveEnum,
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait, ExprTrait,
    QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict, Order, Query},
};

use super::{DeliveryRecord, DeliveryState, WebhookDb};
use crate::{
    MetaError, boxed_future,
    db::entities::{webhook, webhook_delivery},
};

/// Maximum length of a recorded error, in bytes.
const MAX_ERROR: usize = 255;
/// Maximum number of rows in one statement.
const MAX_ROWS: usize = 64;

impl DeliveryState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Retrying, Self::Dead];

    /// The state's name in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}

/// How far a webhook has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookProgress {
    /// The epoch in which the position was read.
    pub epoch: i32,
    /// Every event up to this position is delivered or has a row.
    pub position: i64,
    /// Failed attempts since the latest successful one.
    pub failures: u32,
    /// Nothing is sent before this time, in milliseconds since the Unix epoch.
    pub retry_at: Option<i64>,
}

impl WebhookDb {
    /// Records deliveries of a webhook, and how far it has come. Returns `false` if the position was
    /// set in the meantime, or the webhook was deleted: then only the deliveries are recorded.
    #[boxed_future]
    pub async fn record(
        &self,
        id: Uid,
        progress: WebhookProgress,
        deliveries: Vec<DeliveryRecord>,
    ) -> Result<bool, MetaError> {
        self.db
            .write(move |transaction| {
                let deliveries = deliveries.clone();
                Box::pin(async move {
                    insert(transaction, id, deliveries).await?;
                    let is_behind = Condition::all()
                        .add(webhook::Column::Id.eq(id.get()))
                        .add(webhook::Column::Epoch.eq(progress.epoch))
                        .add(webhook::Column::Position.lte(progress.position));
                    let update = webhook::Entity::update_many()
                        .col_expr(webhook::Column::Position, Expr::value(progress.position))
                        .col_expr(webhook::Column::Failures, Expr::value(progress.failures.cast_signed()))
                        .col_expr(webhook::Column::RetryAt, Expr::value(progress.retry_at))
                        .filter(is_behind);
                    Ok(update.exec(transaction).await?.rows_affected == 1)
                })
            })
            .await
    }

    /// Returns up to `limit` deliveries of a webhook whose next attempt is due at `now`, those that
    /// have been due longest first.
    #[boxed_future]
    pub async fn due_retries(&self, id: Uid, now: i64, limit: u64) -> Result<Vec<DeliveryRecord>, MetaError> {
        let due = webhook_delivery::Entity::find()
            .filter(webhook_delivery::Column::WebhookId.eq(id.get()))
            .filter(webhook_delivery::Column::NextAt.lte(now))
            .order_by_asc(webhook_delivery::Column::NextAt)
            .limit(limit);
        Ok(due.all(&self.db.reader).await?.into_iter().map(from_row).collect())
    }

    /// Returns when the next attempt of a delivery of a webhook is due, in milliseconds since the
    /// Unix epoch.
    #[boxed_future]
    pub async fn next_retry(&self, id: Uid) -> Result<Option<i64>, MetaError> {
        let next = webhook_delivery::Entity::find()
            .select_only()
            .column(webhook_delivery::Column::NextAt)
            .filter(webhook_delivery::Column::WebhookId.eq(id.get()))
            .filter(webhook_delivery::Column::NextAt.is_not_null())
            .order_by_asc(webhook_delivery::Column::NextAt)
            .limit(1);
        let next: Option<Option<i64>> = next.into_tuple().one(&self.db.reader).await?;
        Ok(next.flatten())
    }

    /// Returns up to `limit` deliveries of a webhook, newest event first; with `before`, those of
    /// events at lower positions.
    #[boxed_future]
    pub async fn deliveries(
        &self,
        id: Uid,
        state: Option<DeliveryState>,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<DeliveryRecord>, MetaError> {
        let mut page = webhook_delivery::Entity::find()
            .filter(webhook_delivery::Column::WebhookId.eq(id.get()))
            .order_by_desc(webhook_delivery::Column::Position)
            .limit(limit);
        if let Some(state) = state {
            page = page.filter(webhook_delivery::Column::State.eq(state));
        }
        if let Some(before) = before {
            page = page.filter(webhook_delivery::Column::Position.lt(before));
        }
        Ok(page.all(&self.db.reader).await?.into_iter().map(from_row).collect())
    }

    /// Makes up to `limit` dead deliveries of a webhook due now, oldest event first, with all their
    /// attempts. Returns their number.
    #[boxed_future]
    pub async fn replay_dead(&self, id: Uid, limit: u64) -> Result<u64, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let dead = webhook_delivery::Entity::find()
                        .select_only()
                        .column(webhook_delivery::Column::Position)
                        .filter(webhook_delivery::Column::WebhookId.eq(id.get()))
                        .filter(webhook_delivery::Column::State.eq(DeliveryState::Dead))
                        .order_by_asc(webhook_delivery::Column::Position)
                        .limit(limit);
                    let dead: Vec<i64> = dead.into_tuple().all(transaction).await?;
                    let update = webhook_delivery::Entity::update_many()
                        .col_expr(webhook_delivery::Column::State, Expr::value(DeliveryState::Retrying))
                        .col_expr(webhook_delivery::Column::Attempts, Expr::value(0))
                        .col_expr(webhook_delivery::Column::NextAt, Expr::value(now))
                        .filter(webhook_delivery::Column::WebhookId.eq(id.get()))
                        .filter(webhook_delivery::Column::State.eq(DeliveryState::Dead))
                        .filter(webhook_delivery::Column::Position.is_in(dead));
                    let replayed = update.exec(transaction).await?.rows_affected;
                    webhook::Entity::update_many()
                        .col_expr(webhook::Column::Version, Expr::col(webhook::Column::Version).add(1))
                        .filter(webhook::Column::Id.eq(id.get()))
                        .exec(transaction)
                        .await?;
                    Ok(replayed)
                })
            })
            .await
    }

    /// Deletes up to `limit` delivered deliveries whose latest attempt ended within `attempted`, in
    /// milliseconds since the Unix epoch. Returns the number of deleted deliveries. Looks through all
    /// deliveries in `attempted`.
    #[boxed_future]
    pub async fn purge_delivered(&self, attempted: Range<i64>, limit: u64) -> Result<u64, MetaError> {
        let delivered = Condition::all()
            .add(webhook_delivery::Column::AttemptedAt.gte(attempted.start))
            .add(webhook_delivery::Column::AttemptedAt.lt(attempted.end))
            .add(webhook_delivery::Column::State.eq(DeliveryState::Delivered));
        self.purge(delivered, limit).await
    }

    /// Deletes up to `limit` deliveries in any state whose latest attempt ended before `before`, in
    /// milliseconds since the Unix epoch. Keeps those whose next attempt was due later: only retries
    /// of webhooks that are deleted or disabled are due for so long. Returns the number of deleted
    /// deliveries.
    #[boxed_future]
    pub async fn purge_deliveries(&self, before: i64, limit: u64) -> Result<u64, MetaError> {
        let is_over = Condition::any()
            .add(webhook_delivery::Column::NextAt.is_null())
            .add(webhook_delivery::Column::NextAt.lt(before));
        let old = Condition::all().add(webhook_delivery::Column::AttemptedAt.lt(before)).add(is_over);
        self.purge(old, limit).await
    }

    /// Deletes up to `limit` deliveries that meet a condition, by one statement.
    async fn purge(&self, condition: Condition, limit: u64) -> Result<u64, MetaError> {
        let mut delete = Query::delete();
        delete.from_table(webhook_delivery::Entity);
        if self.db.reader.get_database_backend() == DbBackend::MySql {
            // MySQL does not allow `LIMIT` in such a subquery, but has it in `DELETE`.
            delete.cond_where(condition);
            delete.order_by(webhook_delivery::Column::AttemptedAt, Order::Asc).limit(limit);
        } else {
            let key = [webhook_delivery::Column::WebhookId, webhook_delivery::Column::Position];
            let page = Query::select()
                .columns(key)
                .from(webhook_delivery::Entity)
                .cond_where(condition)
                .order_by(webhook_delivery::Column::AttemptedAt, Order::Asc)
                .limit(limit)
                .take();
            delete.and_where(Expr::tuple(key.map(Expr::col)).in_subquery(page));
        }
        self.db
            .write(move |transaction| {
                let delete = delete.clone();
                Box::pin(async move { Ok(transaction.execute(&delete).await?.rows_affected()) })
            })
            .await
    }
}

/// Inserts deliveries, or replaces those of the same events.
async fn insert(
    transaction: &DatabaseTransaction,
    id: Uid,
    mut deliveries: Vec<DeliveryRecord>,
) -> Result<(), DbErr> {
    let replace = || {
        OnConflict::columns([webhook_delivery::Column::WebhookId, webhook_delivery::Column::Position])
            .update_columns([
                webhook_delivery::Column::State,
                webhook_delivery::Column::Attempts,
                webhook_delivery::Column::NextAt,
                webhook_delivery::Column::AttemptedAt,
                webhook_delivery::Column::Status,
                webhook_delivery::Column::DurationMs,
                webhook_delivery::Column::Error,
            ])
            .to_owned()
    };
    while !deliveries.is_empty() {
        // The numbers of rows are powers of two, so that there are few different statements to
        // prepare.
        let rows = deliveries.len().min(MAX_ROWS);
        let rows = 1 << rows.ilog2();
        let rows: Vec<_> = deliveries.drain(..rows).map(|delivery| to_row(id, delivery)).collect();
        webhook_delivery::Entity::insert_many(rows)
            .on_conflict(replace())
            .exec_without_returning(transaction)
            .await?;
    }
    Ok(())
}

fn to_row(id: Uid, delivery: DeliveryRecord) -> webhook_delivery::ActiveModel {
    let error = delivery.error.map(|mut error| {
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        // Some databases reject NUL.
        error.replace('\0', "")
    });
    webhook_delivery::ActiveModel {
        webhook_id: Set(id.get()),
        position: Set(delivery.position),
        kind: Set(delivery.kind),
        uid: Set(delivery.uid.map(Uid::get)),
        state: Set(delivery.state),
        attempts: Set(delivery.attempts.cast_signed()),
        next_at: Set(delivery.next_at),
        attempted_at: Set(delivery.attempted_at),
        status: Set(delivery.status.map(i32::from)),
        duration_ms: Set(i32::try_from(delivery.duration_ms).unwrap_or(i32::MAX)),
        error: Set(error),
    }
}

fn from_row(row: webhook_delivery::Model) -> DeliveryRecord {
    DeliveryRecord {
        position: row.position,
        kind: row.kind,
        uid: row.uid.map(Uid::from_db),
        state: row.state,
        attempts: row.attempts.cast_unsigned(),
        next_at: row.next_at,
        attempted_at: row.attempted_at,
        status: row.status.and_then(|status| u16::try_from(status).ok()),
        duration_ms: row.duration_ms.cast_unsigned(),
        error: row.error,
    }
}
