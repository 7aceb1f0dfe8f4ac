//! Webhooks: events are sent to endpoints.

mod client;
mod crashes;
mod management;
mod nodes;
mod receivers;
mod tenants;

use osproxy_api::v1::{Webhook, WebhookDeliveries, WebhookDelivery};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use standardwebhooks::Webhook as Verifier;

use crate::support::{Api, Received, Receiver, Service, eventually, expect_json};

/// Receivers of tests are on this machine, without TLS.
const LOCAL: &str = "webhooks: {allow_http: true, allowed_networks: [127.0.0.0/8], timeout: 1s}";

/// Starts a service that may send to this machine.
async fn start() -> Service {
    Service::start_configured(LOCAL).await
}

async fn create(api: &Api, wish: &Value) -> Webhook {
    expect_json(api.v1_post("/webhooks", wish).await, 201).await
}

/// Creates a webhook of completed files.
async fn create_for(api: &Api, receiver: &Receiver) -> Webhook {
    create(api, &json!({"url": receiver.url(), "types": ["file.completed"]})).await
}

async fn describe(api: &Api, webhook: &Webhook) -> Webhook {
    expect_json(api.v1_get(&format!("/webhooks/{}", webhook.id)).await, 200).await
}

async fn update(api: &Api, webhook: &Webhook, changes: &Value) -> Webhook {
    let route = format!("/webhooks/{}", webhook.id);
    expect_json(api.v1(Method::PATCH, &route, Some(changes)).await, 200).await
}

async fn deliveries(api: &Api, webhook: &Webhook) -> Vec<WebhookDelivery> {
    let route = format!("/webhooks/{}/deliveries?limit=1000", webhook.id);
    expect_json::<WebhookDeliveries>(api.v1_get(&route).await, 200).await.deliveries
}

/// Waits until the delivery of an event meets a condition.
async fn wait_for_delivery(
    api: &Api,
    webhook: &Webhook,
    uid: &str,
    condition: impl Fn(&WebhookDelivery) -> bool,
) -> WebhookDelivery {
    eventually("the delivery is recorded", async || {
        let all = deliveries(api, webhook).await;
        all.into_iter().find(|one| one.uid.as_deref() == Some(uid) && condition(one))
    })
    .await
}

/// Makes all retries of a webhook due now, and tells the service.
async fn make_due(service: &Service, webhook: &Webhook) {
    service.sql("UPDATE webhook_deliveries SET next_at = 0 WHERE state = 'retrying'").await;
    update(service, webhook, &json!({})).await;
}

fn headers(message: &Received) -> HeaderMap {
    let headers = message.headers.iter();
    headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// Whether the signature is valid by the library of Standard Webhooks.
fn is_signed(message: &Received, secret: &str) -> bool {
    Verifier::new(secret).unwrap().verify(&message.body, &headers(message)).is_ok()
}
