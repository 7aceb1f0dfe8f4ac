//! Change a webhook.

use osproxy_meta::{FileMetadata, WebhookChanges, WebhookRecord, WebhookState};
use osproxy_types::uid::Uid;

use super::{
    Tenant, WebhookOps,
    describe_webhook::{changeable_webhook, describe_webhook, unknown_webhook_error},
};
use crate::{Result, boxed_future, webhooks::WebhookFilter};

/// Changes of a webhook. `None` keeps a value.
#[derive(Clone, Debug, Default)]
pub struct WebhookEdit {
    /// Where the events are sent.
    pub url: Option<String>,
    /// Types of the events.
    pub types: Option<Vec<String>>,
    /// Categories of the files.
    pub categories: Option<Vec<String>>,
    /// Entries that the metadata of the files must have.
    pub metadata: Option<FileMetadata>,
    /// Whether it gets events.
    pub state: Option<WebhookState>,
}

/// Changes a webhook of a tenant, and returns it. A webhook that is enabled again gets the events since
/// it was disabled, as far as they are kept. Fails with `InvalidArgument`, `WebhookNotFound` or
/// `WebhookConfigured`.
#[boxed_future]
pub async fn update_webhook(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    id: Uid,
    edit: WebhookEdit,
) -> Result<WebhookRecord> {
    let WebhookEdit { url, types, categories, metadata, state } = edit;
    if let Some(url) = &url {
        webhooks.client.check_url(url)?;
    }
    let known = changeable_webhook(webhooks, tenant, id).await?;
    let before = WebhookFilter::parse(&known.filters)?;
    let filter = WebhookFilter {
        types: types.unwrap_or(before.types),
        categories: categories.unwrap_or(before.categories),
        metadata: metadata.unwrap_or(before.metadata),
    };
    let changes = WebhookChanges { url, filters: Some(filter.checked()?.to_text()?), state };
    if !webhooks.meta.webhooks.update(id, changes).await? {
        return Err(unknown_webhook_error());
    }
    webhooks.announce_change();
    describe_webhook(webhooks, tenant, id).await
}
