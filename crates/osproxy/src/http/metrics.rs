//! What is counted, for who collects it: Prometheus, or whatever reads its format.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use osproxy_api::ErrorCode;

use super::{auth::is_of_this_machine, server::Peer};
use crate::{Error, app::App, metrics::Page};

/// `GET /metrics`, wherever only those who look after the service can ask.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    match app.metrics_page().await {
        Ok(page) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static(Page::CONTENT_TYPE)),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (headers, page).into_response()
        }
        Err(error) => Error::internal(error).into_response(),
    }
}

/// The same where clients come too: for this machine alone, and not for what a proxy on it hands on.
pub(super) async fn for_this_machine(
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    app: State<Arc<App>>,
) -> Response {
    if !is_of_this_machine(peer.map(|Extension(peer)| peer), &headers) {
        let message = "metrics are told to this machine only";
        return Error::new(ErrorCode::PermissionDenied, message).into_response();
    }
    metrics(app).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::auth::OF_PROXIES;

    #[test]
    fn only_what_comes_from_this_machine_itself_is_answered() {
        let peer = |ip: &str| Some(Peer((ip.parse::<std::net::IpAddr>().unwrap(), 1).into()));
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_of_this_machine(peer(ip), &HeaderMap::new()), "{ip}");
        }
        for ip in ["10.0.0.1", "192.168.1.1", "2001:db8::1", "::ffff:10.0.0.1", "0.0.0.0"] {
            assert!(!is_of_this_machine(peer(ip), &HeaderMap::new()), "{ip}");
        }
        assert!(!is_of_this_machine(None, &HeaderMap::new()));
        for name in OF_PROXIES {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("x"))]);
            assert!(!is_of_this_machine(peer("127.0.0.1"), &headers));
        }
    }
}
