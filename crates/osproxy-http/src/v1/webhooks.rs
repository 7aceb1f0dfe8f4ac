//! Webhooks: endpoints of the application that get its events.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use osproxy_api::{
    schema,
    v1::{
        CreateWebhookRequest, PREFIX, ReplayWebhookRequest, ReplayedState, RotateWebhookSecretRequest,
        UpdateWebhookRequest, Webhook, WebhookDeliveries, WebhookDelivery, WebhookDeliveryState,
        WebhookReplay, WebhookState, WebhookTest, Webhooks,
    },
};
use osproxy_core::{
    Error, Result,
    links::Links,
    ops::{
        self, WebhookOps,
        create_webhook::NewWebhook,
        list_webhook_deliveries::{DeliveryRecord, DeliveryState},
        replay_webhook::Replay,
        update_webhook::WebhookEdit,
    },
    webhooks::{self, WebhookFilter, WebhookRecord, WebhookSecret},
};
use osproxy_types::uid::Uid;

use super::{
    json, pagination,
    path::{self, PathResult},
    query::Query,
    time_format::format_time,
};
use crate::{
    extract::auth::{Admin, Authenticated},
    middleware::reject_body,
    openapi,
    respond::error::HandlerResult,
};

/// `POST /webhooks`
#[utoipa::path(
    post, path = "/webhooks", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_create_webhook",
    summary = "Create a webhook", description = "The endpoint gets the events of the tenant that happen from now on, signed by the Standard Webhooks specification.",
    request_body(content = CreateWebhookRequest),
    security(("api_key" = ["admin"])),
    responses(
        (status = 201, description = "The webhook, with its secret, which is not shown again.", body = Webhook, headers(("location" = String, description = "URL of the webhook."))),
        (status = 409, response = openapi::Conflict),
        openapi::CommonErrors,
        openapi::JsonBodyErrors,
    )
)]
pub(crate) async fn create_webhook(
    State(webhooks): State<Arc<WebhookOps>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    request: Request,
) -> HandlerResult<Response> {
    let CreateWebhookRequest { url, secret, types, categories, metadata } = parse_body(request).await?;
    let new = NewWebhook { url, secret, filter: WebhookFilter { types, categories, metadata } };
    let webhook = ops::create_webhook::create_webhook(&webhooks, &caller.tenant, new).await?;
    let location = [(header::LOCATION, format!("{PREFIX}/webhooks/{}", webhook.id))];
    Ok((StatusCode::CREATED, location, Json(with_secret(webhook)?)).into_response())
}

/// `GET /webhooks`
#[utoipa::path(
    get, path = "/webhooks", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_list_webhooks",
    summary = "List webhooks", description = "",
    params(openapi::PageQuery),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "A page of webhooks, newest first.", body = Webhooks),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn list_webhooks(
    State(webhooks): State<Arc<WebhookOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Webhooks>> {
    let query = Query::parse(uri.query(), &["limit", "cursor"])?;
    let limit = pagination::limit(&query)?;
    let filters = ["webhooks", caller.tenant.as_str()];
    let before = pagination::parse_cursor(&links, &filters, &query)?.map(Uid::from_db);
    let page = ops::list_webhooks::list_webhooks(&webhooks, &caller.tenant, before, limit).await?;
    Ok(Json(Webhooks {
        webhooks: page.webhooks.into_iter().map(render).collect::<Result<_>>()?,
        next_cursor: page.next.map(|next| links.sign_cursor(&filters, &next.get())).transpose()?,
    }))
}

/// `GET /webhooks/{id}`
#[utoipa::path(
    get, path = "/webhooks/{id}", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_describe_webhook",
    summary = "Describe a webhook", description = "",
    params(
        ("id" = schema::Uid, Path, description = "Id of the webhook.", example = "1882573056671744123"),
    ),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The webhook.", body = Webhook),
        (status = 404, response = openapi::Missing),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn describe_webhook(
    State(webhooks): State<Arc<WebhookOps>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    id: PathResult<String>,
    uri: Uri,
) -> HandlerResult<Json<Webhook>> {
    Query::parse(uri.query(), &[])?;
    let id = path::webhook_id(id)?;
    Ok(Json(render(ops::describe_webhook::describe_webhook(&webhooks, &caller.tenant, id).await?)?))
}

/// `PATCH /webhooks/{id}`
#[utoipa::path(
    patch, path = "/webhooks/{id}", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_update_webhook",
    summary = "Change, enable or disable a webhook", description = "Also ends the rest of an endpoint that has failed.",
    params(
        ("id" = schema::Uid, Path, description = "Id of the webhook.", example = "1882573056671744123"),
    ),
    request_body(content = UpdateWebhookRequest),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The changed webhook.", body = Webhook),
        (status = 404, response = openapi::Missing),
        (status = 409, response = openapi::Conflict),
        openapi::CommonErrors,
        openapi::JsonBodyErrors,
    )
)]
pub(crate) async fn update_webhook(
    State(webhooks): State<Arc<WebhookOps>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    id: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<Webhook>> {
    let id = path::webhook_id(id)?;
    let UpdateWebhookRequest { url, types, categories, metadata, state } = parse_body(request).await?;
    let state = state.map(|state| match state {
        WebhookState::Enabled => webhooks::WebhookState::Enabled,
        WebhookState::Disabled => webhooks::WebhookState::Disabled,
    });
    let edit = WebhookEdit { url, types, categories, metadata, state };
    Ok(Json(render(ops::update_webhook::update_webhook(&webhooks, &caller.tenant, id, edit).await?)?))
}

/// `DELETE /webhooks/{id}`
#[utoipa::path(
    delete, path = "/webhooks/{id}", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_delete_webhook",
    summary = "Delete a webhook", description = "Attempts that are under way may still reach the endpoint.",
    params(
        ("id" = schema::Uid, Path, description = "Id of the webhook.", example = "1882573056671744123"),
    ),
    security(("api_key" = ["admin"])),
    responses(
        (status = 204, description = "The webhook is deleted."),
        (status = 404, response = openapi::Missing),
        (status = 409, response = openapi::Conflict),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn delete_webhook(
    State(webhooks): State<Arc<WebhookOps>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    id: PathResult<String>,
    uri: Uri,
) -> HandlerResult<StatusCode> {
    Query::parse(uri.query(), &[])?;
    ops::delete_webhook::delete_webhook(&webhooks, &caller.tenant, path::webhook_id(id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /webhooks/{id}/rotate-secret`
#[utoipa::path(
    post, path = "/webhooks/{id}/rotate-secret", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_rotate_webhook_secret",
    summary = "Rotate the secret of a webhook", description = "For a while, messages have two signatures, by the new secret and by the one before. Another rotation within this time is refused, unless its `overlap` is 0.",
    params(
        ("id" = schema::Uid, Path, description = "Id of the webhook.", example = "1882573056671744123"),
    ),
    request_body(content = RotateWebhookSecretRequest),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The webhook, with its new secret, which is not shown again.", body = Webhook),
        (status = 404, response = openapi::Missing),
        (status = 409, response = openapi::Conflict),
        openapi::CommonErrors,
        openapi::JsonBodyErrors,
    )
)]
pub(crate) async fn rotate_webhook_secret(
    State(webhooks): State<Arc<WebhookOps>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    id: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<Webhook>> {
    let id = path::webhook_id(id)?;
    let RotateWebhookSecretRequest { secret, overlap } = parse_body(request).await?;
    let rotating =
        ops::rotate_webhook_secret::rotate_webhook_secret(&webhooks, &caller.tenant, id, secret, overlap);
    Ok(Json(with_secret(rotating.await?)?))
}

/// `POST /webhooks/{id}/test`
#[utoipa::path(
    post, path = "/webhooks/{id}/test", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_test_webhook",
    summary = "Send a test message to a webhook", description = "Sends a message of the type `webhook.test` once, even if the webhook is disabled.",
    params(
        ("id" = schema::Uid, Path, description = "Id of the webhook.", example = "1882573056671744123"),
    ),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "What the endpoint did.", body = WebhookTest),
        (status = 404, response = openapi::Missing),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn test_webhook(
    State(webhooks): State<Arc<WebhookOps>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    id: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<WebhookTest>> {
    let id = path::webhook_id(id)?;
    let (request, _) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    reject_body(&request.headers)?;
    let report = ops::test_webhook::test_webhook(&webhooks, &caller.tenant, id).await?;
    Ok(Json(WebhookTest {
        delivered: report.is_delivered(),
        status: report.status,
        duration_ms: u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
        error: report.error,
    }))
}

/// `GET /webhooks/{id}/deliveries`
#[utoipa::path(
    get, path = "/webhooks/{id}/deliveries", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_list_webhook_deliveries",
    summary = "List the deliveries of a webhook", description = "Those that the endpoint accepted are kept for `webhooks.delivery_retention`, others as long as their event.",
    params(
        ("id" = schema::Uid, Path, description = "Id of the webhook.", example = "1882573056671744123"),
        ("state" = Option<WebhookDeliveryState>, Query, description = "Only deliveries in this state."),
        openapi::PageQuery,
    ),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "A page of deliveries, newest event first.", body = WebhookDeliveries),
        (status = 404, response = openapi::Missing),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn list_webhook_deliveries(
    State(webhooks): State<Arc<WebhookOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    id: PathResult<String>,
    uri: Uri,
) -> HandlerResult<Json<WebhookDeliveries>> {
    let id = path::webhook_id(id)?;
    let query = Query::parse(uri.query(), &["state", "limit", "cursor"])?;
    let limit = pagination::limit(&query)?;
    let state = query.one_of("state", &DeliveryState::ALL, DeliveryState::name)?;
    let webhook = id.to_string();
    let filters = ["deliveries", &webhook, query.get("state").unwrap_or_default()];
    let before = pagination::parse_cursor(&links, &filters, &query)?;
    let list = ops::list_webhook_deliveries::list_webhook_deliveries;
    let page = list(&webhooks, &caller.tenant, id, state, before, limit).await?;
    Ok(Json(WebhookDeliveries {
        deliveries: page.deliveries.into_iter().map(render_delivery).collect(),
        next_cursor: page.next.map(|next| links.sign_cursor(&filters, &next)).transpose()?,
    }))
}

/// `POST /webhooks/{id}/replay`
#[utoipa::path(
    post, path = "/webhooks/{id}/replay", context_path = PREFIX, tag = "Webhooks", operation_id = "v1_replay_webhook",
    summary = "Deliver events again", description = "The messages have the same `webhook-id` as before.",
    params(
        ("id" = schema::Uid, Path, description = "Id of the webhook.", example = "1882573056671744123"),
    ),
    request_body(content = ReplayWebhookRequest),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The events are due.", body = WebhookReplay),
        (status = 404, response = openapi::Missing),
        openapi::CommonErrors,
        openapi::JsonBodyErrors,
    )
)]
pub(crate) async fn replay_webhook(
    State(webhooks): State<Arc<WebhookOps>>,
    Authenticated { caller, .. }: Authenticated<Admin>,
    id: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<WebhookReplay>> {
    let id = path::webhook_id(id)?;
    let replay = match parse_body(request).await? {
        ReplayWebhookRequest { after: None, state: Some(ReplayedState::Dead) } => Replay::Dead,
        ReplayWebhookRequest { after: Some(position), state: None } if position >= 0 => {
            Replay::After(position)
        }
        _ => {
            let message = "the body must have either `after`, which is at least 0, or `state`";
            return Err(Error::invalid(message).with_field("after").into());
        }
    };
    let deliveries = ops::replay_webhook::replay_webhook(&webhooks, &caller.tenant, id, replay).await?;
    Ok(Json(WebhookReplay { deliveries }))
}

/// Parses the JSON body of a request without parameters.
async fn parse_body<T: serde::de::DeserializeOwned>(request: Request) -> Result<T> {
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    json::parse(&json::read(&request.headers, body).await?)
}

fn render(webhook: WebhookRecord) -> Result<Webhook> {
    let filter = WebhookFilter::parse(&webhook.filters)?;
    Ok(Webhook {
        id: webhook.id.to_string(),
        url: webhook.url,
        state: match webhook.state {
            webhooks::WebhookState::Enabled => WebhookState::Enabled,
            webhooks::WebhookState::Disabled => WebhookState::Disabled,
        },
        reason: webhook.reason,
        types: filter.types,
        categories: filter.categories,
        metadata: filter.metadata,
        position: webhook.position,
        failures: webhook.failures,
        retry_at: webhook.retry_at.map(format_time),
        created_at: format_time(webhook.created_at),
        config_name: webhook.config_name,
        secret: None,
    })
}

/// Renders a webhook with its secret, for its creator.
fn with_secret(webhook: WebhookRecord) -> Result<Webhook> {
    let secret = WebhookSecret::from_bytes(webhook.secret.clone()).reveal();
    Ok(Webhook { secret: Some(secret), ..render(webhook)? })
}

fn render_delivery(delivery: DeliveryRecord) -> WebhookDelivery {
    WebhookDelivery {
        id: webhooks::message_id(delivery.position),
        position: delivery.position,
        kind: delivery.kind,
        uid: delivery.uid.map(|uid| uid.to_string()),
        state: match delivery.state {
            DeliveryState::Delivered => WebhookDeliveryState::Delivered,
            DeliveryState::Retrying => WebhookDeliveryState::Retrying,
            DeliveryState::Dead => WebhookDeliveryState::Dead,
        },
        attempts: delivery.attempts,
        attempted_at: format_time(delivery.attempted_at),
        next_attempt_at: delivery.next_at.map(format_time),
        status: delivery.status,
        duration_ms: delivery.duration_ms,
        error: delivery.error,
    }
}
