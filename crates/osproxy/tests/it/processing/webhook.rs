//! The step `webhook`, with a real HTTP service that answers well, badly, late or never.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::post,
};
use osproxy::{config::ServerSection, wiring::http::listener_settings};
use osproxy_api::v1::FileState;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{said, start, store_v1, wait_for};
use crate::support::{Service, eventually};

/// A request that the service got: `Authorization`, the body, and what its link gave.
struct Asked {
    authorization: Option<String>,
    question: Value,
    cache_control: String,
    content: Vec<u8>,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// Answers as the path says.
async fn answer(
    State(log): State<Log>,
    axum::extract::Path(wanted): axum::extract::Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let question: Value = serde_json::from_slice(&body).unwrap();
    let link = question["link"].as_str().unwrap().to_owned();
    let downloaded = reqwest::get(link).await.unwrap();
    let cache_control = downloaded.headers()["cache-control"].to_str().unwrap().to_owned();
    let content = downloaded.bytes().await.unwrap().to_vec();
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    log.lock().unwrap().push(Asked { authorization, question, cache_control, content });
    match wanted.as_str() {
        "accept" => json!({"verdict": "accept", "metadata": {"seen": "yes"}}).to_string().into_response(),
        "reject" => json!({"verdict": "reject", "reason": "no"}).to_string().into_response(),
        "garbage" => "what".into_response(),
        "much" => vec![b' '; 1 << 20].into_response(),
        "redirect" => Redirect::temporary("/accept").into_response(),
        "missing" => StatusCode::NOT_FOUND.into_response(),
        "broken" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "hangs" => std::future::pending().await,
        other => panic!("unknown path {other}"),
    }
}

fn serve_router(listener: tokio::net::TcpListener, router: Router) {
    tokio::spawn(async move {
        let never = CancellationToken::new();
        let settings = listener_settings(&ServerSection::default());
        osproxy_http::listener::serve(listener, router, settings, None, never, Duration::ZERO).await;
    });
}

async fn serve() -> (SocketAddr, Log) {
    let log = Log::default();
    let router = Router::new().route("/{wanted}", post(answer)).with_state(log.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_router(listener, router);
    (address, log)
}

#[tokio::test]
async fn a_service_gets_a_link_and_gives_a_verdict() {
    let (address, log) = serve().await;
    // The service must know its own address for the link.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let names = ["accept", "reject", "garbage", "much", "redirect", "missing", "broken", "hangs"];
    let steps: Vec<_> = names
        .iter()
        .map(|name| {
            json!({
                "step": "webhook", "url": format!("http://{address}/{name}"), "types": [format!("x/{name}")],
                "base_url": format!("http://127.0.0.1:{port}"), "authorization": "Bearer abc", "timeout": 1,
                "on_error": "reject",
            })
        })
        .collect();
    let config = json!({"processing": steps, "links": {"public_cache": true}});
    let service = Service::start_configured(&config.to_string()).await;
    let forward = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let to = service.address;
    tokio::spawn(async move {
        loop {
            let (mut from, _) = forward.accept().await.unwrap();
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    for name in names {
        let uid = store_v1(&service, "a.bin", &format!("x/{name}"), name.as_bytes()).await;
        let state = if name == "accept" { FileState::Stored } else { FileState::Rejected };
        let file = wait_for(&service, &uid, state).await;
        assert_eq!(file.metadata.contains_key("seen"), name == "accept");
        let said = said(&service, &uid).await;
        let reason = said["steps"][0]["reason"].as_str().unwrap_or_default().to_owned();
        let expected = match name {
            "accept" => "",
            "reject" => "no",
            "garbage" => "no verdict",
            "much" => "more than 65536 bytes",
            "redirect" => "307",
            "missing" => "404",
            "broken" => "500",
            _ => "does not answer",
        };
        assert!(reason.contains(expected), "{name}: {reason}");
        let asked = log.lock().unwrap().pop().unwrap();
        assert_eq!(asked.authorization.as_deref(), Some("Bearer abc"));
        assert_eq!(asked.content, name.as_bytes());
        assert_eq!(asked.cache_control, "no-store, no-transform");
        assert_eq!((&asked.question["uid"], &asked.question["size"]), (&json!(uid), &json!(name.len())));
        if name == "reject" {
            // The link does not outlive the file.
            let link = asked.question["link"].as_str().unwrap();
            assert_eq!(reqwest::get(link).await.unwrap().status(), 410);
        }
    }
}

#[tokio::test]
async fn a_service_that_is_away_holds_files() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let step = json!({"step": "webhook", "url": format!("http://{address}/accept"), "base_url": "http://x", "timeout": 1});
    let service = start(&[step]).await;
    let uid = service.store("a.bin", b"held").await;
    eventually("the step has failed", async || {
        let attempts = service.sql("SELECT attempts FROM tasks WHERE kind = 'process_file'").await;
        attempts[0].parse::<u32>().is_ok_and(|attempts| attempts > 1).then_some(())
    })
    .await;
    assert_eq!(service.describe(&uid).await.state, FileState::Processing);
    let router = Router::new().route(
        "/accept",
        post(|| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            json!({"verdict": "accept"}).to_string()
        }),
    );
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    serve_router(listener, router);
    wait_for(&service, &uid, FileState::Stored).await;
}
