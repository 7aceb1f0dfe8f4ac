//! List webhooks, page by page.

use osproxy_meta::WebhookRecord;
use osproxy_types::uid::Uid;

use super::{Tenant, WebhookOps};
use crate::{Result, boxed_future};

/// A page of webhooks.
#[derive(Debug)]
pub struct WebhookPage {
    /// The webhooks, newest first.
    pub webhooks: Vec<WebhookRecord>,
    /// Id of the last webhook on this page; `None` if this is the last page.
    pub next: Option<Uid>,
}

/// Returns up to `limit` webhooks of a tenant, newest first; with `before`, those created before that
/// webhook.
#[boxed_future]
pub async fn list_webhooks(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    before: Option<Uid>,
    limit: u64,
) -> Result<WebhookPage> {
    // Read one more than `limit`, to see whether there is another page.
    let mut page = webhooks.meta.webhooks.list(Some(tenant), before, limit + 1).await?;
    let has_more = page.len() as u64 > limit;
    if has_more {
        page.pop();
    }
    let next = page.last().filter(|_| has_more).map(|webhook| webhook.id);
    Ok(WebhookPage { webhooks: page, next })
}
