//! Delete a webhook.

use osproxy_types::uid::Uid;

use super::{
    Tenant, WebhookOps,
    describe_webhook::{deletable_webhook, unknown_webhook_error},
};
use crate::{Result, boxed_future};

/// Deletes a webhook of a tenant. Attempts that are under way end by themselves. Fails with
/// `WebhookNotFound`, or with `WebhookConfigured` if it is in the configuration file and enabled.
#[boxed_future]
pub async fn delete_webhook(webhooks: &WebhookOps, tenant: &Tenant, id: Uid) -> Result<()> {
    deletable_webhook(webhooks, tenant, id).await?;
    let is_deleted = webhooks.meta.webhooks.delete(id).await?;
    webhooks.announce_change();
    if is_deleted { Ok(()) } else { Err(unknown_webhook_error()) }
}
