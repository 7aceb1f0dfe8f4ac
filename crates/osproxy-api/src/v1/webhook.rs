use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    integer, nullable,
    schema::{CategoryName, EventName, Metadata, Moment, Uid, WebhookSecret, WebhookUrl},
};

/// Body of `POST /webhooks`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = v1::CreateWebhookRequest)]
pub struct CreateWebhookRequest {
    /// Where the events are sent.
    #[schema(value_type = WebhookUrl)]
    pub url: String,
    /// Signs the events. If absent, osproxy generates a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WebhookSecret>)]
    pub secret: Option<String>,
    /// Types of the events; if empty, all types.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<EventName>>, required = false)]
    pub types: Vec<String>,
    /// Categories of the files; if empty, all events, also those that are not about a file.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<CategoryName>>, required = false)]
    pub categories: Vec<String>,
    /// Entries that the metadata of the file must have; up to 16.
    #[serde(default, deserialize_with = "nullable::map", skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Option<Metadata>, required = false)]
    pub metadata: BTreeMap<String, String>,
}

/// Body of `PATCH /webhooks/{id}`. Absent members stay unchanged; lists and `metadata` are replaced as
/// a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = v1::UpdateWebhookRequest)]
pub struct UpdateWebhookRequest {
    /// Where the events are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WebhookUrl>)]
    pub url: Option<String>,
    /// Types of the events; if empty, all types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<EventName>>)]
    pub types: Option<Vec<String>>,
    /// Categories of the files; if empty, all events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<CategoryName>>)]
    pub categories: Option<Vec<String>>,
    /// Entries that the metadata of the file must have; up to 16.
    #[serde(default, deserialize_with = "nullable::optional_map", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Metadata>, required = false)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// `enabled` or `disabled`. A webhook that is enabled again gets the events since it was disabled,
    /// as far as they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WebhookState>,
}

/// A webhook: an endpoint of the application that gets events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Id of the webhook.
    #[schema(value_type = Uid)]
    pub id: String,
    /// Where the events are sent, in normal form.
    pub url: String,
    /// Whether it gets events.
    pub state: WebhookState,
    /// Why it is disabled, if nobody did that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Types of the events; if empty, all types.
    #[schema(value_type = Vec<EventName>)]
    pub types: Vec<String>,
    /// Categories of the files; if empty, all events.
    #[schema(value_type = Vec<CategoryName>)]
    pub categories: Vec<String>,
    /// Entries that the metadata of the file must have.
    #[schema(value_type = Metadata)]
    pub metadata: BTreeMap<String, String>,
    /// Every event up to this one is delivered, or is in the list of deliveries.
    #[schema(minimum = 0)]
    pub position: i64,
    /// Failed attempts since the latest successful one.
    pub failures: u32,
    /// Present while the endpoint rests after failures: nothing is sent before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub retry_at: Option<String>,
    /// When the webhook was created.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// Name of the webhook in the configuration file. Such a webhook cannot be changed by the API, and
    /// only be deleted if it is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_name: Option<String>,
    /// The secret. Only in the responses to its creation and rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WebhookSecret>)]
    pub secret: Option<String>,
}

/// Whether a webhook gets events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// Gets events.
    Enabled,
    /// Gets no events, until it is enabled.
    Disabled,
}

/// A page of webhooks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Webhooks {
    /// The webhooks of this page, newest first.
    pub webhooks: Vec<Webhook>,
    /// Value of the parameter `cursor` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "3q2-7w")]
    pub next_cursor: Option<String>,
}

/// Body of `POST /webhooks/{id}/rotate-secret`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = v1::RotateWebhookSecretRequest)]
pub struct RotateWebhookSecretRequest {
    /// The new secret. If absent, osproxy generates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WebhookSecret>)]
    pub secret: Option<String>,
    /// For how many seconds the secret before also signs; defaults to one day. 0 ends all earlier
    /// secrets at once.
    #[serde(default = "a_day", deserialize_with = "overlap")]
    #[schema(value_type = Option<i64>, required = false, example = 86_400, minimum = 0, maximum = 2_592_000)]
    pub overlap: i64,
}

const fn a_day() -> i64 {
    24 * 3600
}

fn overlap<'de, D: Deserializer<'de>>(input: D) -> Result<i64, D::Error> {
    integer::optional(input).map(|seconds| seconds.unwrap_or(a_day()))
}

/// Response to `POST /webhooks/{id}/test`: what the endpoint did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookTest {
    /// Whether the endpoint accepted the message with a status from 200 to 299.
    pub delivered: bool,
    /// Status of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Time until the response, in milliseconds.
    pub duration_ms: u64,
    /// Why the message was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "the endpoint answered 500")]
    pub error: Option<String>,
}

/// The delivery of one event to a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookDelivery {
    /// The header `webhook-id` of all attempts.
    #[schema(example = "evt_17")]
    pub id: String,
    /// Position of the event.
    #[schema(minimum = 1)]
    pub position: i64,
    /// Type of the event.
    #[serde(rename = "type")]
    #[schema(example = "file.completed")]
    pub kind: String,
    /// Uid of the file that the event is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uid>)]
    pub uid: Option<String>,
    /// State of the delivery.
    pub state: WebhookDeliveryState,
    /// Number of attempts.
    pub attempts: u32,
    /// When the latest attempt ended.
    #[schema(value_type = Moment)]
    pub attempted_at: String,
    /// When the next attempt is due. Present only in the state `retrying`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub next_attempt_at: Option<String>,
    /// Status of the latest response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Duration of the latest attempt in milliseconds.
    pub duration_ms: u32,
    /// Why the latest attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "the endpoint answered 500")]
    pub error: Option<String>,
}

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookDeliveryState {
    /// The endpoint accepted it.
    Delivered,
    /// An attempt failed, and there will be another one.
    Retrying,
    /// All attempts failed.
    Dead,
}

/// A page of deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookDeliveries {
    /// The deliveries of this page, newest event first.
    pub deliveries: Vec<WebhookDelivery>,
    /// Value of the parameter `cursor` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "3q2-7w")]
    pub next_cursor: Option<String>,
}

/// Body of `POST /webhooks/{id}/replay`: which events to deliver again. Has exactly one member.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = v1::ReplayWebhookRequest, min_properties = 1, max_properties = 1)]
pub struct ReplayWebhookRequest {
    /// All events after this position, in order. A position that is ahead of the webhook skips the events
    /// up to it. One that is ahead of all events counts as that of the newest event.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i64, required = false, minimum = 0, example = 17)]
    pub after: Option<i64>,
    /// The events of deliveries in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ReplayedState, required = false)]
    pub state: Option<ReplayedState>,
}

/// The state of the deliveries to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayedState {
    /// All attempts failed.
    Dead,
}

/// Response to `POST /webhooks/{id}/replay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookReplay {
    /// Number of dead deliveries that are due again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<u64>,
}
