//! For whoever distributes requests among nodes: is this one to have any?

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{app::App, error, ops::check_health::check_health};

/// What a probe is told.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `live`, `ready`, `draining` or `unavailable`.
    pub(super) status: &'static str,
    /// What is down, and why requests should go to another node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) down: Vec<&'static str>,
}

impl Health {
    const fn of(status: &'static str) -> Self {
        Self { status, down: Vec::new() }
    }
}

/// `GET /health/live`: the process answers.
#[utoipa::path(
    get, path = "/health/live", tag = "Health",
    summary = "Is the process there?", description = "",
    responses((status = 200, description = "The process answers.", body = Health, example = json!({"status": "live"})))
)]
pub(super) async fn live() -> Json<Health> {
    Json(Health::of("live"))
}

/// `GET /health/ready`: requests are welcome. Not while it stops, or cannot reach the database.
///
/// Without Redis it is: whatever is stored can be read, and for a while uids are issued. Were that not so, all nodes
/// would be gone at once.
#[utoipa::path(
    get, path = "/health/ready", tag = "Health",
    summary = "Are requests welcome?", description = "",
    responses(
        (status = 200, description = "Requests are welcome.", body = Health, example = json!({"status": "ready"})),
        (
            status = 503, description = "Requests should go to another node.", body = Health,
            example = json!({"status": "unavailable", "down": ["database"]})
        ),
    )
)]
pub(super) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Health>) {
    let (status, health) = readiness(&app).await;
    (status, Json(health))
}

/// Whether requests are welcome, and the status that says so.
pub(super) async fn readiness(app: &App) -> (StatusCode, Health) {
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, Health::of("draining"));
    }
    if let Err(error) = check_health(app).await {
        tracing::warn!(error = error::chain(&error), "not ready: the database does not answer");
        return (StatusCode::SERVICE_UNAVAILABLE, Health { status: "unavailable", down: vec!["database"] });
    }
    (StatusCode::OK, Health::of("ready"))
}
