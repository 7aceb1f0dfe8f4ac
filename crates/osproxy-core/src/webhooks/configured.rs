//! Webhooks of the configuration file.

use std::collections::HashSet;

use osproxy_meta::{MetaError, WebhookRecord, WebhookState};
use osproxy_types::tenant::Tenant;

use super::{WebhookFilter, WebhookOps, WebhookSecret, new_id};
use crate::{Result, boxed_future};

/// Why a webhook is disabled that the configuration file does not have any more.
const NOT_CONFIGURED: &str = "not in the configuration of a node that started later";

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
    /// Creates, changes and enables the webhooks of the configuration file.
    ///
    /// Deletes those that it does not have any more, unless there are other nodes: then it only
    /// disables them. While the configuration of a cluster changes, a node with the earlier one may
    /// start, and must not delete what a node with the later one has created. A disabled webhook keeps
    /// its position, and the next node that has it in its configuration enables it.
    ///
    /// Fails if a URL or a filter is invalid.
    #[boxed_future]
    pub async fn configure(&self, configured: Vec<ConfiguredWebhook>, is_clustered: bool) -> Result<()> {
        configure_webhooks(self, configured, is_clustered).await?;
        self.announce_change();
        Ok(())
    }
}

async fn configure_webhooks(
    ops: &WebhookOps,
    configured: Vec<ConfiguredWebhook>,
    is_clustered: bool,
) -> Result<()> {
    let existing = ops.meta.webhooks.configured().await?;
    let names: HashSet<_> = configured.iter().map(|webhook| webhook.name.as_str()).collect();
    for WebhookRecord { id, version, config_name, .. } in existing {
        let name = config_name.unwrap_or_default();
        if names.contains(name.as_str()) {
            continue;
        }
        if !is_clustered {
            ops.meta.webhooks.delete(id).await?;
        } else if ops.meta.webhooks.disable(id, version, NOT_CONFIGURED).await? {
            tracing::warn!(
                webhook = id.get(),
                name,
                "disabled a webhook that is not in the configuration of this node"
            );
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
