//! Deliver events to a webhook again.

use osproxy_types::uid::Uid;

use super::{
    Tenant, WebhookOps,
    describe_webhook::{describe_webhook, unknown_webhook_error},
};
use crate::{Result, boxed_future};

/// Number of deliveries that are changed in one transaction.
const PAGE: u64 = 500;

/// Which events to deliver again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Those of dead deliveries.
    Dead,
    /// All events after a position, in order.
    After(i64),
}

/// Makes events due for a webhook of a tenant. Returns the number of dead deliveries that are due
/// again; `None` for [`Replay::After`]. Fails with `WebhookNotFound`.
#[boxed_future]
pub async fn replay_webhook(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    id: Uid,
    replay: Replay,
) -> Result<Option<u64>> {
    describe_webhook(webhooks, tenant, id).await?;
    let replayed = match replay {
        Replay::Dead => Some(replay_dead(webhooks, id).await?),
        Replay::After(position) => {
            // Later events do not exist yet, and must not be skipped.
            let position = position.min(webhooks.meta.events.newest_position().await?);
            if !webhooks.meta.webhooks.set_position(id, position).await? {
                return Err(unknown_webhook_error());
            }
            None
        }
    };
    webhooks.announce_change();
    Ok(replayed)
}

async fn replay_dead(webhooks: &WebhookOps, id: Uid) -> Result<u64> {
    let mut replayed = 0;
    loop {
        let page = webhooks.meta.webhooks.replay_dead(id, PAGE).await?;
        replayed += page;
        if page < PAGE {
            return Ok(replayed);
        }
    }
}
