use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use osproxy_storage::Durations;

use super::{ByLabel, Page};

/// Methods that are told apart. There may be as many others as a client makes up.
const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"];

/// What is counted of requests, by the templates of their routes, of which there are only so many.
#[derive(Debug, Default)]
pub struct Requests(ByLabel<String, Route>);

/// What is counted of the requests to one route.
#[derive(Debug, Default)]
pub struct Route {
    /// By method and status; 0 stands for a client that left before it had an answer.
    ended: ByLabel<(&'static str, u16), AtomicU64>,
    received: AtomicU64,
    sent: AtomicU64,
    /// From the head of the request to the head of the answer.
    answered: Durations,
}

impl Requests {
    /// The route with this template.
    pub fn route(&self, template: &str) -> Arc<Route> {
        self.0.of(template)
    }

    pub(super) fn tell(&self, page: &mut Page) {
        let routes = self.0.all();
        let label = |route: &str| vec![("route", route.to_owned())];
        let ended = routes.iter().flat_map(|(template, route)| {
            let of_route = route.ended.all().into_iter();
            of_route.map(move |((method, status), count)| {
                let mut labels = label(template);
                labels.push(("method", method.to_owned()));
                labels.push(("status", if status == 0 { "none".to_owned() } else { status.to_string() }));
                (labels, count.load(Ordering::Relaxed))
            })
        });
        page.counter("requests", "Requests that have ended, with the end of their answer", ended);
        let bytes = |counter: fn(&Route) -> &AtomicU64| {
            let of_routes = routes.iter();
            of_routes.map(move |(template, route)| (label(template), counter(route).load(Ordering::Relaxed)))
        };
        page.counter("received_bytes", "Bytes of bodies of requests", bytes(|route| &route.received));
        page.counter("sent_bytes", "Bytes of bodies of answers", bytes(|route| &route.sent));
        page.durations(
            "request_duration_seconds",
            "How long requests took from their head to the head of their answer",
            routes.iter().map(|(template, route)| (label(template), route.answered.counted())),
        );
    }
}

impl Route {
    /// The head of an answer is there.
    pub fn answered(&self, took: Duration) {
        self.answered.observe(took);
    }

    /// A request has ended, with this status if it had an answer.
    pub fn ended(&self, method: &str, status: Option<u16>, received: u64, sent: u64) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        self.ended.of(&(method, status.unwrap_or(0))).fetch_add(1, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }
}
