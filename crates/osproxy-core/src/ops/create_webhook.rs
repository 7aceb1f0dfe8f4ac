//! Create a webhook.

use osproxy_api::ErrorCode;
use osproxy_meta::{WebhookRecord, WebhookState};

use super::{Tenant, WebhookOps};
use crate::{
    Error, Result, boxed_future,
    webhooks::{WebhookFilter, WebhookSecret, new_id},
};

/// A new webhook.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// Where the events are sent.
    pub url: String,
    /// Signs the events; `None`: generate a secret.
    pub secret: Option<String>,
    /// Which events it gets.
    pub filter: WebhookFilter,
}

/// Creates a webhook of a tenant, which gets the events that happen from now on. Fails with
/// `InvalidArgument` if the request is invalid, and with `TooManyWebhooks`.
#[boxed_future]
pub async fn create_webhook(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    new: NewWebhook,
) -> Result<WebhookRecord> {
    let url = webhooks.client.check_url(&new.url)?;
    let filter = new.filter.checked()?;
    let secret = secret_or_new(new.secret.as_deref())?;
    let now = webhooks.meta.now_ms();
    let webhook = WebhookRecord {
        id: new_id(now)?,
        tenant: tenant.clone(),
        config_name: None,
        url: url.into(),
        secret: secret.bytes().to_vec(),
        previous_secret: None,
        filters: filter.to_text()?,
        state: WebhookState::Enabled,
        reason: None,
        position: webhooks.meta.events.newest_position().await?,
        epoch: 0,
        version: 0,
        failures: 0,
        retry_at: None,
        created_at: now,
    };
    let max = webhooks.settings.max_per_tenant;
    if !webhooks.meta.webhooks.create(webhook.clone(), max).await? {
        let message = format!("a tenant must have at most {max} webhooks; delete one that is not used");
        return Err(Error::new(ErrorCode::TooManyWebhooks, message));
    }
    webhooks.announce_change();
    Ok(webhook)
}

/// Parses a secret, or generates one.
pub(super) fn secret_or_new(text: Option<&str>) -> Result<WebhookSecret> {
    match text {
        Some(text) => {
            WebhookSecret::parse(text).map_err(|error| Error::invalid(error.to_string()).with_field("secret"))
        }
        None => WebhookSecret::generate().map_err(Error::internal),
    }
}
