use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use osproxy_storage::DurationHistogram;

use super::{ByLabel, MetricsPage};

/// Methods with a label of their own; all others share one, because clients can invent any number.
const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"];

/// Metrics of requests by route template, of which there is a fixed number.
#[derive(Debug, Default)]
pub struct RequestMetrics(ByLabel<String, RouteMetrics>);

/// Metrics of one route.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    /// By method and status; status 0 means that the client disconnected before it got a response.
    requests: ByLabel<(&'static str, u16), AtomicU64>,
    received: AtomicU64,
    sent: AtomicU64,
    /// Time from the request head to the response head.
    response_times: DurationHistogram,
}

impl RequestMetrics {
    /// The metrics of the route with this template.
    pub fn route(&self, template: &str) -> Arc<RouteMetrics> {
        self.0.get_or_default(template)
    }

    pub(super) fn export(&self, page: &mut MetricsPage) {
        let routes = self.0.all();
        let label = |route: &str| vec![("route", route.to_owned())];
        let ended = routes.iter().flat_map(|(template, route)| {
            let of_route = route.requests.all().into_iter();
            of_route.map(move |((method, status), count)| {
                let mut labels = label(template);
                labels.push(("method", method.to_owned()));
                labels.push(("status", if status == 0 { "none".to_owned() } else { status.to_string() }));
                (labels, count.load(Ordering::Relaxed))
            })
        });
        page.counter("requests", "Requests whose response has ended", ended);
        let bytes = |counter: fn(&RouteMetrics) -> &AtomicU64| {
            let of_routes = routes.iter();
            of_routes.map(move |(template, route)| (label(template), counter(route).load(Ordering::Relaxed)))
        };
        page.counter("received_bytes", "Bytes of request bodies", bytes(|route| &route.received));
        page.counter("sent_bytes", "Bytes of response bodies", bytes(|route| &route.sent));
        page.histogram(
            "request_duration_seconds",
            "Time from the request head to the response head",
            routes.iter().map(|(template, route)| (label(template), route.response_times.snapshot())),
        );
    }
}

impl RouteMetrics {
    /// Counts a response head.
    pub fn observe_response(&self, took: Duration) {
        self.response_times.observe(took);
    }

    /// Counts a request that has ended; `status` is `None` if it got no response.
    pub fn count_request(&self, method: &str, status: Option<u16>, received: u64, sent: u64) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        self.requests.get_or_default(&(method, status.unwrap_or(0))).fetch_add(1, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }
}
