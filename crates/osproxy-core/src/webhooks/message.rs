//! The messages that endpoints get.

use osproxy_meta::Event;
use osproxy_types::timestamp;
use serde_json::{Map, Value, json};

use super::client::WebhookMessage;
use crate::{Error, Result};

/// The type of the message that `test_webhook` sends.
pub const TEST_TYPE: &str = "webhook.test";

/// Returns the id of the message about the event at `position`.
pub fn message_id(position: i64) -> String {
    format!("evt_{position}")
}

/// Returns the message about an event. It is the same whenever it is made.
pub(super) fn of_event(event: &Event) -> Result<WebhookMessage> {
    let mut data: Map<String, Value> = serde_json::from_str(&event.payload).map_err(Error::internal)?;
    data.insert("sequence".to_owned(), event.position.into());
    message(message_id(event.position), &event.kind, event.created_at, &data.into())
}

/// Returns a message that tests an endpoint. `id` is unique.
pub(super) fn test_message(id: &str, webhook: &str, now: i64) -> Result<WebhookMessage> {
    message(format!("evt_test_{id}"), TEST_TYPE, now, &json!({"webhook": webhook}))
}

fn message(id: String, kind: &str, created_at: i64, data: &Value) -> Result<WebhookMessage> {
    let body = json!({"type": kind, "timestamp": timestamp::rfc3339(created_at), "data": data});
    Ok(WebhookMessage { id, body: serde_json::to_vec(&body).map_err(Error::internal)? })
}
