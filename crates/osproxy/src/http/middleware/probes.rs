use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{extract::Request, middleware::Next, response::Response};
use tokio::time::Instant;

/// How far apart answers to probes on one connection are at least.
const SPACING: Duration = Duration::from_millis(100);

/// When a connection was, or will be, answered a probe last. An extension of every request.
#[derive(Clone, Default)]
pub(in crate::http) struct Probes(Arc<Mutex<Option<Instant>>>);

impl Probes {
    /// When the next one may be answered.
    fn next(&self) -> Instant {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let next = last.map_or(now, |last| now.max(last + SPACING));
        *last = Some(next);
        next
    }
}

/// Lets a connection that asks for the state of the service again and again wait between two answers. Such requests are
/// anonymous and within no limit, and must take nothing from those who work.
pub(in crate::http) async fn space_probes(request: Request, next: Next) -> Response {
    if let Some(probes) = request.extensions().get::<Probes>() {
        tokio::time::sleep_until(probes.next()).await;
    }
    next.run(request).await
}
