//! Change a webhook.

use osproxy_api::ErrorCode;
use osproxy_meta::{FileMetadata, WebhookChanges, WebhookRecord, WebhookState};
use osproxy_types::uid::Uid;

use super::{
    Tenant, WebhookOps,
    describe_webhook::{changeable_webhook, describe_webhook},
};
use crate::{Error, Result, boxed_future, webhooks::WebhookFilter};

/// How often a change is tried if others change the same webhook at the same time.
const MAX_TRIES: usize = 20;

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
/// it was disabled, as far as they are kept. Changes by several callers at the same time all take
/// effect. Fails with `InvalidArgument`, `WebhookNotFound` or `WebhookConfigured`.
#[boxed_future]
pub async fn update_webhook(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    id: Uid,
    edit: WebhookEdit,
) -> Result<WebhookRecord> {
    let WebhookEdit { url, types, categories, metadata, state } = edit;
    let url = url.map(|url| webhooks.client.check_url(&url)).transpose()?.map(String::from);
    for _ in 0..MAX_TRIES {
        let known = changeable_webhook(webhooks, tenant, id).await?;
        let before = WebhookFilter::parse(&known.filters)?;
        let filter = WebhookFilter {
            types: types.clone().unwrap_or(before.types),
            categories: categories.clone().unwrap_or(before.categories),
            metadata: metadata.clone().unwrap_or(before.metadata),
        };
        let filters = Some(filter.checked()?.to_text()?);
        let changes = WebhookChanges { url: url.clone(), filters, state };
        if webhooks.meta.webhooks.update(id, known.version, changes).await? {
            webhooks.announce_change();
            return describe_webhook(webhooks, tenant, id).await;
        }
    }
    Err(Error::new(ErrorCode::Unavailable, "this webhook changes all the time; retry later"))
}
