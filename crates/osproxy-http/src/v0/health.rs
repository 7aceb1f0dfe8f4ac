//! Probes for load balancers and monitoring.

use std::sync::Arc;

use axum::{Json, extract::State};
use osproxy_api::v0::{Envelope, PREFIX};
use osproxy_core::{App, ops};

use crate::{openapi, respond::error::HandlerResult};

/// `GET /ping`: checks the database.
#[utoipa::path(
    get, path = "/ping", context_path = PREFIX, tag = "Health",
    summary = "Check the database", description = "",
    responses(
        (status = 200, description = "The database responds.", body = Envelope<String>, example = json!({"code": 0, "message": "ok", "data": "pong"})),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn ping(State(app): State<Arc<App>>) -> HandlerResult<Json<Envelope<&'static str>>> {
    ops::check_health::check_health(&app).await?;
    Ok(Json(Envelope::ok("pong")))
}

/// `GET /health`: liveness.
#[utoipa::path(
    get, path = "/health", context_path = PREFIX, tag = "Health",
    summary = "Liveness probe", description = "",
    responses(
        (status = 200, description = "The process responds.", body = Envelope<String>, example = json!({"code": 0, "message": "ok", "data": "healthy"})),
    )
)]
pub(crate) async fn health() -> Json<Envelope<&'static str>> {
    Json(Envelope::ok("healthy"))
}
