//! Send a test message to a webhook.

use osproxy_types::uid::Uid;

use super::{Tenant, WebhookOps, describe_webhook::describe_webhook};
use crate::{
    Result, boxed_future,
    webhooks::{SendReport, send_test},
};

/// Sends a message of the type `webhook.test` to a webhook of a tenant, once, even if it is disabled.
/// Returns what the endpoint did. Fails with `WebhookNotFound`.
#[boxed_future]
pub async fn test_webhook(webhooks: &WebhookOps, tenant: &Tenant, id: Uid) -> Result<SendReport> {
    let webhook = describe_webhook(webhooks, tenant, id).await?;
    send_test(&webhooks.client, &webhook, webhooks.meta.now_ms()).await
}
