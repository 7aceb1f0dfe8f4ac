use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family},
};

use super::encode::{EncodeMetrics, SharedHistogram};

/// Methods that the metrics distinguish. All other methods share one label, because clients can send
/// any number of invented methods.
const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"];

/// Metrics of requests, by route template. The number of route templates is fixed.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    /// The metrics of each route, by the template of the route. Avoids lookups in the families,
    /// which would allocate a label for each request. The write lock is taken only when a route is
    /// used for the first time.
    routes: RwLock<HashMap<Arc<str>, Arc<RouteMetrics>>>,
    requests: Family<RequestLabels, Counter>,
    received_bytes: Family<RouteLabel, Counter>,
    sent_bytes: Family<RouteLabel, Counter>,
    /// Time from the request head to the response head.
    response_times: Family<RouteLabel, SharedHistogram>,
}

type RouteLabel = [(&'static str, Arc<str>); 1];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    method: &'static str,
    status: Status,
}

/// Status of a response; `None` if the client disconnected before it got a response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Status(Option<u16>);

impl EncodeLabelValue for Status {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => status.encode(encoder),
            None => "none".encode(encoder),
        }
    }
}

/// Metrics of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    template: Arc<str>,
    /// Shared by all routes.
    requests: Family<RequestLabels, Counter>,
    received_bytes: Counter,
    sent_bytes: Counter,
    response_times: SharedHistogram,
}

impl RequestMetrics {
    /// The metrics of the route with this template.
    pub fn route(&self, template: &str) -> Arc<RouteMetrics> {
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(template).cloned();
        known.unwrap_or_else(|| {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            let template: Arc<str> = template.into();
            routes.entry(template.clone()).or_insert_with(|| Arc::new(self.new_route(template))).clone()
        })
    }

    fn new_route(&self, template: Arc<str>) -> RouteMetrics {
        let label = [("route", template.clone())];
        RouteMetrics {
            template,
            requests: self.requests.clone(),
            received_bytes: self.received_bytes.get_or_create_owned(&label),
            sent_bytes: self.sent_bytes.get_or_create_owned(&label),
            response_times: self.response_times.get_or_create_owned(&label),
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        encoder.encode_metric("requests", "Requests whose response has ended", &self.requests)?;
        encoder.encode_metric("received_bytes", "Bytes of request bodies", &self.received_bytes)?;
        encoder.encode_metric("sent_bytes", "Bytes of response bodies", &self.sent_bytes)?;
        encoder.encode_metric(
            "request_duration_seconds",
            "Time from the request head to the response head",
            &self.response_times,
        )
    }
}

impl RouteMetrics {
    /// The template of the route.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// Records the time from the request head to the response head.
    pub fn observe_response(&self, duration: Duration) {
        self.response_times.observe(duration);
    }

    /// Counts a request that has ended; `status` is `None` if it got no response. `received` and
    /// `sent` are the sizes of the bodies in bytes.
    pub fn count_request(&self, method: &str, status: Option<u16>, received: u64, sent: u64) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        let labels = RequestLabels { route: self.template.clone(), method, status: Status(status) };
        self.requests.get_or_create(&labels).inc();
        self.received_bytes.inc_by(received);
        self.sent_bytes.inc_by(sent);
    }
}
