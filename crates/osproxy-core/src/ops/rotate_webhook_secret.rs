//! Rotate the secret of a webhook.

use osproxy_api::ErrorCode;
use osproxy_meta::WebhookRecord;
use osproxy_types::{timestamp, uid::Uid};

use super::{
    Tenant, WebhookOps,
    create_webhook::secret_or_new,
    describe_webhook::{changeable_webhook, describe_webhook},
};
use crate::{Error, Result, boxed_future};

/// Longest time for which the secret before also signs, in seconds.
const MAX_OVERLAP_SECS: i64 = 30 * 24 * 3600;

/// Replaces the secret of a webhook by `secret`, or by a generated one. The secret before also signs
/// for `overlap_secs` seconds. If it is 0, all earlier secrets end. Returns the webhook with the new
/// secret. Fails with `InvalidArgument`, `WebhookNotFound` or `WebhookConfigured`, and with
/// `WebhookSecretRotating` if three secrets would sign.
#[boxed_future]
pub async fn rotate_webhook_secret(
    webhooks: &WebhookOps,
    tenant: &Tenant,
    id: Uid,
    secret: Option<String>,
    overlap_secs: i64,
) -> Result<WebhookRecord> {
    if !(0..=MAX_OVERLAP_SECS).contains(&overlap_secs) {
        let message = format!("`overlap` must be 0 to {MAX_OVERLAP_SECS} seconds");
        return Err(Error::invalid(message).with_field("overlap"));
    }
    let secret = secret_or_new(secret.as_deref())?;
    changeable_webhook(webhooks, tenant, id).await?;
    let until = webhooks.meta.now_ms() + overlap_secs * 1000;
    if !webhooks.meta.webhooks.rotate_secret(id, secret.bytes().to_vec(), until).await? {
        return Err(rotation_error(webhooks, tenant, id).await?);
    }
    webhooks.announce_change();
    let webhook = describe_webhook(webhooks, tenant, id).await?;
    // Another rotation may have followed: the caller gets the secret of this one.
    Ok(WebhookRecord { secret: secret.bytes().to_vec(), ..webhook })
}

/// Returns why a secret cannot be rotated.
async fn rotation_error(webhooks: &WebhookOps, tenant: &Tenant, id: Uid) -> Result<Error> {
    let webhook = describe_webhook(webhooks, tenant, id).await?;
    let until = webhook.previous_secret.map_or(0, |(_, until)| until);
    let message = format!(
        "the secret before still signs until {}; wait until then, or end it now with the `overlap` 0",
        timestamp::rfc3339(until)
    );
    Ok(Error::new(ErrorCode::WebhookSecretRotating, message))
}
