//! List events, page by page.

use osproxy_types::tenant::Tenant;

use crate::{
    Result, boxed_future,
    events::{EventFilter, EventKind, EventOps, EventPage},
};

/// Returns up to `limit` events of a tenant after the event with the id `after`; 0 stands for the
/// beginning. A page can be empty although there are more events. Fails with `CursorExpired` if
/// events after `after` may have been removed.
#[boxed_future]
pub async fn list_events(
    events: &EventOps,
    tenant: &Tenant,
    kinds: Vec<EventKind>,
    after: i64,
    limit: u64,
) -> Result<EventPage> {
    events.after(&EventFilter { tenant: Some(tenant.clone()), kinds }, after, limit).await
}
