//! Metrics in the Prometheus text format.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use osproxy_core::{App, Error, metrics};

use crate::{
    extract::auth::{Admin, Authenticated},
    respond::error::Rejection,
};

/// `GET /metrics` on the admin listener, without authentication.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    match app.export_metrics().await {
        Ok(page) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE)),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (headers, page).into_response()
        }
        Err(error) => Rejection(Error::internal(error)).into_response(),
    }
}

/// `GET /metrics` on the main listener, for callers with the scope `admin`.
pub(crate) async fn authenticated_metrics(_: Authenticated<Admin>, app: State<Arc<App>>) -> Response {
    metrics(app).await
}
