//! Assignment of positions on a database server.

use std::fmt::Write as _;

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter,
    QueryOrder, QuerySelect, sea_query::Expr,
};
use tokio::sync::watch;

use crate::{
    EventDb, MetaError, boxed_future,
    db::{
        database::Writer,
        entities::{event, event_position},
    },
    events::read::oldest_without_position,
};

/// Maximum number of events that get positions in one transaction.
const BATCH: u64 = 500;

/// Key of the only row in `event_positions`.
const COUNTER: i32 = 1;

impl EventDb {
    /// Assigns positions to committed events that have none. Returns how many events got one; 0 on
    /// SQLite. All nodes may call this at the same time.
    #[boxed_future]
    pub async fn assign_positions(&self) -> Result<u64, MetaError> {
        // A query is cheaper than a transaction that locks the counter.
        if matches!(self.db.writer, Writer::Embedded(_)) || oldest_without_position(&self.db).await?.is_none()
        {
            return Ok(0);
        }
        let mut assigned = 0;
        loop {
            let batch = self.db.write(|transaction| Box::pin(assign_batch(transaction))).await?;
            assigned += batch;
            if batch > 0 {
                self.db.event_signal.positioned();
            }
            if batch < BATCH {
                return Ok(assigned);
            }
        }
    }

    /// Waits until this process may have recorded events without a position.
    pub async fn wait_recorded(&self) {
        self.db.event_signal.wait_recorded().await;
    }

    /// Wakes those who wait for events: another node may have assigned positions.
    pub fn notify(&self) {
        self.db.event_signal.positioned();
    }

    /// Returns a receiver that is woken when events may have got positions. The events of other
    /// nodes wake it only if they call [`notify`](Self::notify) here.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.db.event_signal.subscribe()
    }
}

async fn assign_batch(transaction: &DatabaseTransaction) -> Result<u64, DbErr> {
    // The lock makes the assignments of all nodes take turns. So an event that is committed later
    // than those that were seen here gets a higher position.
    let counter = event_position::Entity::find_by_id(COUNTER).lock_exclusive().one(transaction).await?;
    let Some(counter) = counter else {
        return Err(DbErr::RecordNotFound("event_positions".to_owned()));
    };
    let ids: Vec<i64> = event::Entity::find()
        .select_only()
        .column(event::Column::Id)
        .filter(event::Column::Position.is_null())
        .order_by_asc(event::Column::Id)
        .limit(BATCH)
        .into_tuple()
        .all(transaction)
        .await?;
    if ids.is_empty() {
        return Ok(0);
    }
    let count = ids.len() as u64;
    // Not prepared: every number of events would be another statement.
    let mut cases = String::new();
    for (id, position) in ids.iter().zip(counter.next..) {
        let _ = write!(cases, " WHEN {id} THEN {position}");
    }
    let ids: Vec<_> = ids.iter().map(i64::to_string).collect();
    let sql = format!("UPDATE events SET position = CASE id{cases} END WHERE id IN ({})", ids.join(", "));
    transaction.execute_unprepared(&sql).await?;
    event_position::Entity::update_many()
        .col_expr(
            event_position::Column::Next,
            Expr::col(event_position::Column::Next).add(count.cast_signed()),
        )
        .filter(event_position::Column::Id.eq(COUNTER))
        .exec(transaction)
        .await?;
    Ok(count)
}
