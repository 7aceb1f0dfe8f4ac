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
    /// What is down: `database`, `cache`, `store`, `disk` or `clock`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) down: Vec<&'static str>,
    /// `refused` while every upload of a new file fails because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uploads: Option<&'static str>,
}

impl Health {
    const fn of(status: &'static str) -> Self {
        Self { status, down: Vec::new(), uploads: None }
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
/// all nodes would be gone at once. A node that is alone is better than none, too. It says `degraded` then, what is down, and
/// whether uploads are refused because of it.
#[utoipa::path(
    get, path = "/health/ready", tag = "Health",
    summary = "Are requests welcome?", description = "",
    responses(
        (
            status = 200, description = "Requests are welcome, even if some of them cannot be served now.", body = Health,
            examples(
                ("ready" = (value = json!({"status": "ready"}))),
                ("degraded" = (value = json!({"status": "degraded", "down": ["cache"]}))),
                ("refusing uploads" = (value = json!({"status": "degraded", "down": ["disk"], "uploads": "refused"}))),
            )
        ),
        (
            status = 503, description = "Requests should go to another node.", body = Health,
            example = json!({"status": "unavailable", "down": ["database"], "uploads": "refused"})
        ),
    )
)]
pub(super) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Health>) {
    let (status, health) = readiness(&app).await;
    (status, Json(health))
}

/// Whether requests are welcome, and the status that says so.
pub(super) async fn readiness(app: &Arc<App>) -> (StatusCode, Health) {
    let (code, status, condition) = match check_health::readiness(app).await {
        Readiness::Draining => return (StatusCode::SERVICE_UNAVAILABLE, Health::of("draining")),
        Readiness::Ready => return (StatusCode::OK, Health::of("ready")),
        Readiness::Degraded(condition) => (StatusCode::OK, "degraded", condition),
        Readiness::Unavailable(condition) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", condition),
    };
    let down = condition.down.into_iter().map(Need::name).collect();
    (code, Health { status, down, uploads: condition.refuses_uploads.then_some("refused") })
}
