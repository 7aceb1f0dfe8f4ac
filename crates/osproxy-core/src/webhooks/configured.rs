//! Webhooks of the configuration file.

use osproxy_meta::{MetaError, WebhookRecord, WebhookState};
use osproxy_types::tenant::Tenant;

use super::{WebhookFilter, WebhookOps, WebhookSecret, new_id};
use crate::{Result, boxed_future};

/// A webhook of the configuration file.
#[derive(Clone, Debug)]
pub struct ConfiguredWebhook {
    /// Name, unique in the cluster.
    pub name: String,
    /// The tenant whose events it gets.
    pub tenant: Tenant,
    /// Where the events are sent.
    pub url: String,
    /// Signs the events.
    pub secret: WebhookSecret,
    /// Which events it gets.
    pub filter: WebhookFilter,
}

impl WebhookOps {
    /// Creates and changes the webhooks of the configuration file, and deletes those that it does not
    /// have any more. All nodes must have the same. Fails if a URL or a filter is invalid.
    #[boxed_future]
    pub async fn configure(&self, configured: Vec<ConfiguredWebhook>) -> Result<()> {
        configure_webhooks(self, configured).await
    }
}

async fn configure_webhooks(ops: &WebhookOps, configured: Vec<ConfiguredWebhook>) -> Result<()> {
    let existing = ops.meta.webhooks.configured().await?;
    for (id, name) in existing {
        if !configured.iter().any(|webhook| webhook.name == name) {
            ops.meta.webhooks.delete(id).await?;
        }
    }
    for ConfiguredWebhook { name, tenant, url, secret, filter } in configured {
        let url = ops.client.check_url(&url)?.into();
        let now = ops.meta.now_ms();
        let webhook = WebhookRecord {
            id: new_id(now)?,
            tenant,
            config_name: Some(name),
            url,
            secret: secret.bytes().to_vec(),
            previous_secret: None,
            filters: filter.checked()?.to_text()?,
            state: WebhookState::Enabled,
            reason: None,
            position: ops.meta.events.newest_position().await?,
            epoch: 0,
            version: 0,
            failures: 0,
            retry_at: None,
            created_at: now,
        };
        match ops.meta.webhooks.configure(webhook).await {
            // Another node that starts now has created it.
            Ok(()) | Err(MetaError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
