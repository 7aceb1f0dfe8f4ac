//! Liveness and readiness probes for load balancers and orchestrators.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use osproxy_core::{
    App, Dependency,
    ops::check_health::{self, Readiness},
};
use serde::Serialize;
use utoipa::ToSchema;

/// Response to a health probe.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `live`, `ready`, `degraded`, `draining` or `unavailable`.
    pub(crate) status: &'static str,
    /// Dependencies that fail: `database`, `cache`, `store`, `disk` or `clock`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) down: Vec<&'static str>,
    /// `refused` while a failed dependency makes every upload of a new file fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uploads: Option<&'static str>,
}

impl Health {
    const fn new(status: &'static str) -> Self {
        Self { status, down: Vec::new(), uploads: None }
    }
}

/// `GET /health/live`: liveness.
#[utoipa::path(
    get, path = "/health/live", tag = "Health",
    summary = "Liveness probe", description = "Succeeds as long as the process responds. Checks no dependency.",
    responses((status = 200, description = "The process responds.", body = Health, example = json!({"status": "live"})))
)]
pub(crate) async fn live() -> Json<Health> {
    Json(Health::new("live"))
}

/// `GET /health/ready`: readiness. Fails with 503 while the node drains or cannot reach the
/// database. In a cluster whose nodes store new files on their own disks, also fails while the disk
/// of this node is not writable.
///
/// A node stays ready while Redis or a store is unavailable. Such an outage affects all nodes, and
/// would otherwise take all of them out of rotation. Without a store, the node can still read from
/// other stores; without Redis, it can still issue uids for a while. A single node with a failed
/// disk stays ready too, because no other node could take over.
///
/// In these cases the status is `degraded`. The response names the failed dependencies, and tells
/// whether uploads are refused.
#[utoipa::path(
    get, path = "/health/ready", tag = "Health",
    summary = "Readiness probe", description = "Tells a load balancer whether to send requests to this node.",
    responses(
        (
            status = 200, description = "The node accepts requests. With `degraded`, some of them may fail.", body = Health,
            examples(
                ("ready" = (value = json!({"status": "ready"}))),
                ("degraded" = (value = json!({"status": "degraded", "down": ["cache"]}))),
                ("refusing uploads" = (value = json!({"status": "degraded", "down": ["disk"], "uploads": "refused"}))),
            )
        ),
        (
            status = 503, description = "Send requests to another node.", body = Health,
            example = json!({"status": "unavailable", "down": ["database"], "uploads": "refused"})
        ),
    )
)]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Health>) {
    let (status, health) = readiness(&app).await;
    (status, Json(health))
}

/// Returns the status code and body of the readiness probe.
pub(crate) async fn readiness(app: &Arc<App>) -> (StatusCode, Health) {
    let (code, status, health) = match check_health::readiness(app).await {
        Readiness::Draining => return (StatusCode::SERVICE_UNAVAILABLE, Health::new("draining")),
        Readiness::Ready => return (StatusCode::OK, Health::new("ready")),
        Readiness::Degraded(condition) => (StatusCode::OK, "degraded", condition),
        Readiness::Unavailable(condition) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", condition),
    };
    let down = health.failed.into_iter().map(Dependency::name).collect();
    (code, Health { status, down, uploads: health.refuses_uploads.then_some("refused") })
}
