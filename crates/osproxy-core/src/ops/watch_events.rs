//! Follow events as they happen.

use std::sync::Arc;

use osproxy_types::tenant::Tenant;

use crate::{
    Result, boxed_future,
    events::{EventKind, EventOps, EventWatch},
};

/// Follows the events of a tenant after the event with the id `after`; `None` stands for the newest
/// one. Fails with `CursorExpired` if events after `after` may have been removed, and with
/// `Overloaded` if too many clients follow events.
#[boxed_future]
pub async fn watch_events(
    events: &Arc<EventOps>,
    tenant: &Tenant,
    kinds: Vec<EventKind>,
    after: Option<i64>,
) -> Result<EventWatch> {
    events.watch(tenant, kinds, after).await
}
