//! Reads events in the order of their positions.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect,
    Select,
};

use crate::{
    EventDb, EventKind, MetaError, boxed_future,
    db::{database::Database, entities::event},
};

/// Maximum number of events that one call looks through.
const MAX_SCAN: u64 = 1000;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Position in the order of all events; from 1.
    pub position: i64,
    /// The tenant.
    pub tenant: Tenant,
    /// Name of the kind. Another version of osproxy may have recorded an unknown kind.
    pub kind: String,
    /// The file that the event is about.
    pub uid: Option<Uid>,
    /// Time of the event, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// A JSON object of less than 20 kB.
    pub payload: String,
}

/// Selects events.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only events of this tenant.
    pub tenant: Option<Tenant>,
    /// Only events of these kinds; empty: of all kinds.
    pub kinds: Vec<EventKind>,
}

/// Events in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// The position up to which events were looked at: where the next call continues. Beyond the
    /// last event of this page, if there are later events that do not match.
    pub position: i64,
    /// The position of the newest event of all tenants.
    pub newest: i64,
    /// Whether there may be more events after `position`.
    pub has_more: bool,
}

/// An event without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// The tenant.
    pub tenant: Tenant,
    /// Name of the kind.
    pub kind: String,
}

/// Events of all tenants in order, without their payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHeaderPage {
    /// The events.
    pub events: Vec<EventHeader>,
    /// The position where the next call continues.
    pub position: i64,
    /// Whether there may be more events after `position`.
    pub has_more: bool,
}

/// The column of the position. On SQLite, this is the id.
pub(super) fn position(backend: DbBackend) -> event::Column {
    if backend == DbBackend::Sqlite { event::Column::Id } else { event::Column::Position }
}

impl EventDb {
    /// Returns up to `limit` events after a position. Looks through at most 1,000 events of the
    /// tenant, so a page can be empty although there are more events.
    #[boxed_future]
    pub async fn after(&self, filter: &EventFilter, after: i64, limit: u64) -> Result<EventPage, MetaError> {
        let position = position(self.db.reader.get_database_backend());
        let of_tenant = |events: Select<event::Entity>| match &filter.tenant {
            Some(tenant) => events.filter(event::Column::Tenant.eq(tenant.as_str())),
            None => events,
        };
        // Read first: every event up to this position is visible to the queries below.
        let newest = self.newest_position().await?;
        let mut page = of_tenant(event::Entity::find()).filter(position.gt(after));
        let mut scanned = None;
        if !filter.kinds.is_empty() {
            // Rare kinds must not make one call read all events.
            let last = of_tenant(event::Entity::find().select_only().column(position))
                .filter(position.gt(after))
                .order_by_asc(position)
                .offset(MAX_SCAN - 1)
                .limit(1);
            scanned = last.into_tuple::<i64>().one(&self.db.reader).await?;
            if let Some(last) = scanned {
                page = page.filter(position.lte(last));
            }
            page = page.filter(event::Column::Kind.is_in(filter.kinds.iter().map(|kind| kind.name())));
        }
        let rows = page.order_by_asc(position).limit(limit).all(&self.db.reader).await?;
        let is_full = rows.len() as u64 == limit;
        let events: Vec<_> = rows.into_iter().map(|row| self.event_from_row(row)).collect();
        let last = events.last().map_or(after, |event| event.position);
        // A reader of few events must not fall behind the oldest event that is kept.
        let position = if is_full { last } else { scanned.unwrap_or(newest).max(last) };
        Ok(EventPage { position, newest, has_more: is_full || scanned.is_some(), events })
    }

    /// Returns up to `limit` events after a position without their payloads.
    #[boxed_future]
    pub async fn headers_after(&self, after: i64, limit: u64) -> Result<EventHeaderPage, MetaError> {
        let position = position(self.db.reader.get_database_backend());
        let page = event::Entity::find()
            .select_only()
            .columns([position, event::Column::Tenant, event::Column::Kind])
            .filter(position.gt(after))
            .order_by_asc(position)
            .limit(limit);
        let rows: Vec<(i64, String, String)> = page.into_tuple().all(&self.db.reader).await?;
        let has_more = rows.len() as u64 == limit;
        let position = rows.last().map_or(after, |(position, ..)| *position);
        let events = rows.into_iter();
        let events =
            events.map(|(_, tenant, kind)| EventHeader { tenant: Tenant::from_db(&tenant), kind }).collect();
        Ok(EventHeaderPage { events, position, has_more })
    }

    /// Returns the newest events of a file, oldest first; at most `limit`. Includes events that have
    /// no position yet, with the position 0.
    #[boxed_future]
    pub async fn of_file(&self, uid: Uid, limit: u64) -> Result<Vec<Event>, MetaError> {
        let events = event::Entity::find()
            .filter(event::Column::Uid.eq(uid.get()))
            .order_by_desc(event::Column::Id)
            .limit(limit);
        let mut events = events.all(&self.db.reader).await?;
        events.reverse();
        Ok(events.into_iter().map(|row| self.event_from_row(row)).collect())
    }

    /// Returns the position of the oldest event that is kept; `None` if there is no event.
    #[boxed_future]
    pub async fn oldest_position(&self) -> Result<Option<i64>, MetaError> {
        Ok(position_at_end(&self.db, Order::Asc).await?)
    }

    /// Returns the position of the newest event; 0 if there is no event.
    #[boxed_future]
    pub async fn newest_position(&self) -> Result<i64, MetaError> {
        Ok(position_at_end(&self.db, Order::Desc).await?.unwrap_or(0))
    }

    fn event_from_row(&self, row: event::Model) -> Event {
        let has_position = self.db.reader.get_database_backend() != DbBackend::Sqlite;
        Event {
            position: if has_position { row.position.unwrap_or(0) } else { row.id },
            tenant: Tenant::from_db(&row.tenant),
            kind: row.kind,
            uid: row.uid.map(Uid::from_db),
            created_at: row.created_at,
            payload: row.payload,
        }
    }
}

/// Returns the lowest or the highest position; `None` if there is no event.
pub(crate) async fn position_at_end(db: &Database, order: Order) -> Result<Option<i64>, DbErr> {
    let position = position(db.reader.get_database_backend());
    let end = event::Entity::find()
        .select_only()
        .column(position)
        .filter(position.is_not_null())
        .order_by(position, order)
        .limit(1);
    end.into_tuple().one(&db.reader).await
}

/// Returns when the oldest event happened that has no position yet, in milliseconds since the Unix
/// epoch; `None` if all have one.
pub(crate) async fn oldest_without_position(db: &Database) -> Result<Option<i64>, DbErr> {
    if db.reader.get_database_backend() == DbBackend::Sqlite {
        return Ok(None);
    }
    let oldest = event::Entity::find()
        .select_only()
        .column_as(event::Column::CreatedAt.min(), "oldest")
        .filter(event::Column::Position.is_null());
    Ok(oldest.into_tuple::<Option<i64>>().one(&db.reader).await?.flatten())
}
