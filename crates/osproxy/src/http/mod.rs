//! HTTP: every route on one page. Adapters parse, call the operation and render, nothing else.

mod conditional;
mod content;
mod disposition;
mod forward;
mod health;
mod middleware;
pub mod openapi;
mod page;
mod range;
pub mod server;
mod swagger;
mod v0;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{get, post, put},
};
use osproxy_api::v0::PREFIX;

use crate::app::App;

/// All routes. A request's body breaks off when its client sends nothing for `body_timeout`.
pub fn router(app: Arc<App>, body_timeout: Duration) -> Router {
    let v0 = Router::new()
        .route("/ping", get(v0::check_health::ping))
        .route("/health", get(v0::check_health::health))
        .route("/link/upload", post(v0::create_upload::create_upload))
        .route("/link/download", post(v0::create_download_link::create_download_link))
        .route("/resume", post(v0::instant_upload::instant_upload))
        .route("/upload", put(v0::upload_file::upload_file))
        .route("/upload/multi", put(v0::upload_part::upload_part))
        .route("/upload/merge", put(v0::complete_upload::complete_upload))
        .route("/proxy", get(v0::locate_content::locate_content))
        .route("/checkpoint", get(v0::upload_status::upload_status))
        .route("/download", get(v0::download_file::download_file));
    Router::new()
        .nest(PREFIX, v0)
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/", get(page::page))
        .route("/openapi.json", get(openapi::serve))
        .route("/swagger", get(swagger::redirect))
        .route("/swagger/", get(swagger::index))
        .route("/swagger/{file}", get(swagger::file))
        .fallback(v0::unknown_route)
        .method_not_allowed_fallback(v0::method_not_allowed)
        .layer(axum::middleware::from_fn(v0::render_error))
        .layer(axum::middleware::from_fn_with_state((app.clone(), body_timeout), middleware::request))
        .with_state(app)
}
