//! For whoever distributes requests among nodes: is this one to have any?

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use crate::{app::App, error, ops::check_health::check_health};

/// What a probe is told.
#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
    /// What is down, and why requests should go to another node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    down: Vec<&'static str>,
}

impl Health {
    const fn of(status: &'static str) -> Json<Self> {
        Json(Self { status, down: Vec::new() })
    }
}

/// `GET /health/live`: the process answers.
pub(super) async fn live() -> Json<Health> {
    Health::of("live")
}

/// `GET /health/ready`: requests are welcome. Not while it stops, or cannot reach the database.
///
/// Without Redis it is: whatever is stored can be read, and for a while uids are issued. Were that not so, all nodes
/// would be gone at once.
pub(super) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Health>) {
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, Health::of("draining"));
    }
    if let Err(error) = check_health(&app).await {
        tracing::warn!(error = error::chain(&error), "not ready: the database does not answer");
        let health = Health { status: "unavailable", down: vec!["database"] };
        return (StatusCode::SERVICE_UNAVAILABLE, Json(health));
    }
    (StatusCode::OK, Health::of("ready"))
}
