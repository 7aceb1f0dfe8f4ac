//! Rate limit for health probes, by connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{extract::Request, middleware::Next, response::Response};
use tokio::time::Instant;

/// Minimum interval between responses to probes on one connection.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Time at which the latest probe on a connection gets its response. While the response is delayed,
/// this time lies in the future. Every request of the connection has the schedule as an extension.
#[derive(Clone, Default)]
pub(crate) struct ProbeSchedule(Arc<Mutex<Option<Instant>>>);

impl ProbeSchedule {
    /// Schedules the next response, and returns its time.
    fn reserve(&self) -> Instant {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let next = last.map_or(now, |last| now.max(last + MIN_INTERVAL));
        *last = Some(next);
        next
    }
}

/// Delays probes that follow each other too fast on one connection. Anybody can send probes, and
/// most limits do not apply to probes. Without the delay, probes could slow down other requests.
pub(crate) async fn throttle_probes(request: Request, next: Next) -> Response {
    if let Some(probes) = request.extensions().get::<ProbeSchedule>() {
        tokio::time::sleep_until(probes.reserve()).await;
    }
    next.run(request).await
}
