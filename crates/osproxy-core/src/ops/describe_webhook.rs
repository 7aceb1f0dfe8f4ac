//! Describe a webhook.

use osproxy_api::ErrorCode;
use osproxy_meta::{WebhookRecord, WebhookState};
use osproxy_types::uid::Uid;

use super::{Tenant, WebhookOps};
use crate::{Error, Result, boxed_future};

/// Returns a webhook of a tenant. Fails with `WebhookNotFound`.
#[boxed_future]
pub async fn describe_webhook(webhooks: &WebhookOps, tenant: &Tenant, id: Uid) -> Result<WebhookRecord> {
    let webhook = webhooks.meta.webhooks.find(id).await?;
    webhook.filter(|webhook| webhook.tenant == *tenant).ok_or_else(unknown_webhook_error)
}

/// Returns a webhook of a tenant that may be changed. Fails with `WebhookNotFound`, or with
/// `WebhookConfigured` if it is in the configuration file.
pub(super) async fn changeable_webhook(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    id: Uid,
) -> Result<WebhookRecord> {
    changeable(describe_webhook(webhooks, tenant, id).await?)
}

fn changeable(webhook: WebhookRecord) -> Result<WebhookRecord> {
    if webhook.config_name.is_none() {
        return Ok(webhook);
    }
    let message = "this webhook is in the configuration file; change it there";
    Err(Error::new(ErrorCode::WebhookConfigured, message))
}

/// Returns a webhook of a tenant that may be deleted. Fails with `WebhookNotFound`, or with
/// `WebhookConfigured` if it is in the configuration file and enabled. One that is disabled may have
/// been removed from the file.
pub(super) async fn deletable_webhook(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    id: Uid,
) -> Result<WebhookRecord> {
    let webhook = describe_webhook(webhooks, tenant, id).await?;
    if webhook.state == WebhookState::Disabled { Ok(webhook) } else { changeable(webhook) }
}

/// The error for the id of a webhook that does not exist.
pub(super) fn unknown_webhook_error() -> Error {
    Error::new(ErrorCode::WebhookNotFound, "there is no webhook with this id")
}
