//! Receivers and commands of the guide.

#[path = "guide.rs"]
mod guide;

use std::{path::Path, process::Stdio};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use osproxy_api::v1::WebhookTest;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
};
use tonic::codegen::Service as _;

use super::{create, start, wait_for_delivery};
use crate::support::{Page, Service, eventually, expect_json};

const GUIDE: &str = "docs/guides/webhooks.md";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn the_receiver_in_rust_verifies_messages() {
    let shown = Page::read(GUIDE).blocks_in("rust").remove(0);
    assert!(include_str!("guide.rs").contains(shown.trim()), "the guide shows another program than guide.rs");
    let service = start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, guide::receiver(SECRET)));
    verify(&service, &url).await;
}

async fn serve(listener: TcpListener, router: axum::Router) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let router = router.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            router.clone().call(request.map(axum::body::Body::new))
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Asserts that the receiver at `url` accepts messages that are signed with `SECRET`, and no others.
async fn verify(service: &Service, url: &str) {
    for (secret, is_accepted) in [(SECRET, true), ("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", false)] {
        let webhook =
            create(service, &json!({"url": url, "secret": secret, "types": ["file.completed"]})).await;
        let route = format!("/webhooks/{}/test", webhook.id);
        let test: WebhookTest = expect_json(service.v1(Method::POST, &route, None).await, 200).await;
        let status = if is_accepted { 204 } else { 401 };
        assert_eq!((test.delivered, test.status), (is_accepted, Some(status)), "{test:?}");
        let uid = service.store("film.mp4", b"hello").await;
        let delivery = wait_for_delivery(service, &webhook, &uid, |_| true).await;
        assert_eq!(delivery.status, Some(status), "{delivery:?}");
    }
}

/// Starts a receiver of the guide.
fn spawn(program: &str, arguments: &[&str], folder: &Path, port: u16) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("PORT", port.to_string()).env("WEBHOOK_SECRET", SECRET);
    command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
#[ignore = "needs Python and npm: just test-servers"]
async fn the_receivers_of_the_guide_verify_messages() {
    let variable = |name: &str| std::env::var(name).expect("run this by `just test-servers`");
    let service = start().await;
    let page = Page::read(GUIDE);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("receiver.py"), page.blocks_in("python").remove(0)).unwrap();
    std::fs::write(folder.path().join("receiver.mjs"), page.blocks_in("js").remove(0)).unwrap();
    let modules = Path::new(&variable("OSPROXY_TEST_NPM")).join("node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
    for (program, file) in
        [(variable("OSPROXY_TEST_PYTHON"), "receiver.py"), ("node".to_owned(), "receiver.mjs")]
    {
        // The port may be taken by another process, but rarely.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut receiver = spawn(&program, &[file], folder.path(), port);
        eventually("the receiver listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
        verify(&service, &format!("http://127.0.0.1:{port}/hook")).await;
        let mut lines = BufReader::new(receiver.stdout.take().unwrap()).lines();
        receiver.kill().await.unwrap();
        let mut said = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push(line);
        }
        assert!(said.iter().any(|line| line == "file.completed film.mp4"), "{file}: {said:?}");
        assert!(said.iter().any(|line| line.starts_with("webhook.test")), "{file}: {said:?}");
    }
}

#[tokio::test]
async fn the_commands_of_the_guide_work() {
    let service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let script = Page::read(GUIDE).joined_blocks("sh");
    let output = service.shell(folder.path(), &script).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "\"types\":[\"file.completed\",\"file.deleted\"],\"categories\":[],\"metadata\":{\"kind\":\"invoice\"}",
        "\"secret\":\"whsec_",
        "none\n",
        "0 dead deliveries are due",
        "the events after position 0 are due",
        "is disabled",
        "is enabled",
    ] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
}
