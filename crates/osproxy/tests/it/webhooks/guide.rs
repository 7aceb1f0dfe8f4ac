use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use standardwebhooks::Webhook;

struct Receiver {
    webhook: Webhook,
    /// In your application: a table with a unique key.
    seen: Mutex<HashSet<String>>,
}

async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if receiver.webhook.verify(&body, &headers).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let id = headers["webhook-id"].to_str().unwrap_or_default().to_owned();
    if receiver.seen.lock().unwrap().insert(id) {
        println!("{}", String::from_utf8_lossy(&body));
    }
    StatusCode::NO_CONTENT
}

pub fn receiver(secret: &str) -> Router {
    let webhook = Webhook::new(secret).unwrap();
    let receiver = Receiver { webhook, seen: Mutex::default() };
    Router::new().route("/hook", post(receive)).with_state(Arc::new(receiver))
}
