//! Rate limit for health probes, by connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{extract::Request, middleware::Next, response::Response};
use tokio::time::Instant;

/// Minimum interval between responses to probes on one connection.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Time of the latest probe response of a connection, which may be in the future. An extension of
/// every request.
#[derive(Clone, Default)]
pub(crate) struct ProbeSchedule(Arc<Mutex<Option<Instant>>>);

impl ProbeSchedule {
    /// Reserves the time of the next response.
    fn reserve(&self) -> Instant {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let next = last.map_or(now, |last| now.max(last + MIN_INTERVAL));
        *last = Some(next);
        next
    }
}

/// Delays probes that follow each other too fast on a connection. Probes are anonymous and not
/// subject to other limits, so they must not be able to slow down real work.
pub(crate) async fn throttle_probes(request: Request, next: Next) -> Response {
    if let Some(probes) = request.extensions().get::<ProbeSchedule>() {
        tokio::time::sleep_until(probes.reserve()).await;
    }
    next.run(request).await
}
