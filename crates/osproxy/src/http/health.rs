//! For whoever distributes requests among nodes: is this one to have any?

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::{App, Need},
    ops::check_health::{self, Readiness},
};

/// What a probe is told.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `live`, `ready`, `degraded`, `draining` or `unavailable`.
    pub(super) status: &'static str,
    /// What is down: `database`, `cache`, `store` or `disk`.
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

/// `GET /health/ready`: requests are welcome. Not while it stops, or cannot reach the database; nor, where it is one of several
/// nodes that have their own disks, while its own cannot be written to.
///
/// Without Redis or a store it is: whatever lies elsewhere can be read, and for a while uids are issued. Were that not so,
/// all nodes would be gone at once. A node that is alone is better than none, too. It says `degraded` then, and what is down.
#[utoipa::path(
    get, path = "/health/ready", tag = "Health",
    summary = "Are requests welcome?", description = "",
    responses(
        (
            status = 200, description = "Requests are welcome, even if some of them cannot be served now.", body = Health,
            examples(
                ("ready" = (value = json!({"status": "ready"}))),
                ("degraded" = (value = json!({"status": "degraded", "down": ["cache"]}))),
            )
        ),
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
pub(super) async fn readiness(app: &Arc<App>) -> (StatusCode, Health) {
    let (code, status, down) = match check_health::readiness(app).await {
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", Vec::new()),
        Readiness::Ready => (StatusCode::OK, "ready", Vec::new()),
        Readiness::Degraded(down) => (StatusCode::OK, "degraded", down),
        Readiness::Unavailable(down) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", down),
    };
    (code, Health { status, down: down.into_iter().map(Need::name).collect() })
}
