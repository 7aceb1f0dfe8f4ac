use std::sync::Arc;

use axum::{Json, extract::State};
use osproxy_api::v0::Envelope;

use crate::{Result, app::App, ops};

/// `GET /ping`: does everything that requests need answer?
pub(in crate::http) async fn ping(State(app): State<Arc<App>>) -> Result<Json<Envelope<&'static str>>> {
    ops::check_health::check_health(&app).await?;
    Ok(Json(Envelope::ok("pong")))
}

/// `GET /health`: does the process answer?
pub(in crate::http) async fn health() -> Json<Envelope<&'static str>> {
    Json(Envelope::ok("healthy"))
}
