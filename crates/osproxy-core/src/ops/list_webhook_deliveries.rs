//! List the deliveries of a webhook, page by page.

use osproxy_types::uid::Uid;

use super::{Tenant, WebhookOps, describe_webhook::describe_webhook};
use crate::{Result, boxed_future};

pub use osproxy_meta::{DeliveryRecord, DeliveryState};

/// A page of deliveries.
#[derive(Debug)]
pub struct DeliveryPage {
    /// The deliveries, newest event first.
    pub deliveries: Vec<DeliveryRecord>,
    /// Position of the event of the last delivery on this page; `None` if this is the last page.
    pub next: Option<i64>,
}

/// Returns up to `limit` deliveries of a webhook of a tenant, newest event first; with `before`, those
/// of events before that position. Fails with `WebhookNotFound`.
#[boxed_future]
pub async fn list_webhook_deliveries(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    id: Uid,
    state: Option<DeliveryState>,
    before: Option<i64>,
    limit: u64,
) -> Result<DeliveryPage> {
    describe_webhook(webhooks, tenant, id).await?;
    // Read one more than `limit`, to see whether there is another page.
    let mut deliveries = webhooks.meta.webhooks.deliveries(id, state, before, limit + 1).await?;
    let has_more = deliveries.len() as u64 > limit;
    if has_more {
        deliveries.pop();
    }
    let next = deliveries.last().filter(|_| has_more).map(|delivery| delivery.position);
    Ok(DeliveryPage { deliveries, next })
}
