//! Forwarding is only for nodes, and goes only to nodes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::net::TcpListener;

use crate::support::{Service, eventually, expect_v0_error};

const SERVER: &str = "OSPROXY_TEST_POSTGRES";
const SECRET: &str = "what all nodes know: hush";

/// The token of a forwarded request, as docs/ARCHITECTURE.md specifies it.
fn peer_token(secret: &str, node: &str, method: &str, path: &str) -> String {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    for field in ["forward", node, method, path, &at.to_string()] {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field.as_bytes());
    }
    format!("{at}.{}", hex::encode(mac.finalize().into_bytes()))
}

fn id(node: &Service) -> String {
    let log = node.log();
    let (_, rest) = log.split_once("node=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

/// How many requests a node has logged under an id.
fn served(node: &Service, request: &str) -> usize {
    node.log().lines().filter(|line| line.contains(request) && line.contains(" served ")).count()
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_request_goes_one_hop_and_only_nodes_can_say_that_it_did() {
    let settings = [("CLUSTER__SECRET", SECRET)];
    let one = Service::start_on(SERVER, &settings).await;
    let two = one.start_second_node(&settings).await;
    let uid = two.store("x.bin", b"x").await;
    let url = one.download_link(&uid).await.unwrap().url;
    let ask = async |node: &Service, request: &str, mark: &str| {
        let get = node.client().get(node.url(&url)).header("x-request-id", request);
        let get = if mark.is_empty() { get } else { get.header("osproxy-forwarded", mark) };
        get.send().await.unwrap()
    };
    assert_eq!(ask(&one, "plain", "").await.status(), 200);
    // Both nodes log the client's request id.
    eventually("both nodes have logged the request", async || {
        (served(&one, "plain") == 1 && served(&two, "plain") == 1).then_some(())
    })
    .await;
    let of_node = peer_token(SECRET, &id(&one), "GET", &url);
    let answer = ask(&one, "second-hop", &of_node).await;
    assert_eq!(answer.headers()["osproxy-error"], "node_unavailable");
    expect_v0_error(answer, 503).await;
    // The node with the object answers a request that carries a valid token.
    assert_eq!(ask(&two, "first-hop", &peer_token(SECRET, &id(&two), "GET", &url)).await.status(), 200);
    for forged in [
        "1".to_owned(),
        "x.y".to_owned(),
        peer_token("another secret of 16", &id(&one), "GET", &url),
        peer_token(SECRET, &id(&two), "GET", &url),
        peer_token(SECRET, &id(&one), "PUT", &url),
        peer_token(SECRET, &id(&one), "GET", "/"),
    ] {
        let answer = ask(&one, "forged", &forged).await;
        assert_eq!(answer.headers()["osproxy-error"], "permission_denied", "{forged}");
        expect_v0_error(answer, 403).await;
    }
    assert_eq!(served(&two, "forged") + served(&two, "second-hop"), 0, "it was forwarded");
    assert!(!one.log().contains("hush") && !two.log().contains("hush"));
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_node_with_another_secret_is_no_node() {
    let one = Service::start_on(SERVER, &[("CLUSTER__SECRET", SECRET)]).await;
    let two = one.start_second_node(&[("CLUSTER__SECRET", "something else of their own")]).await;
    let uid = two.store("x.bin", b"x").await;
    let url = one.download_link(&uid).await.unwrap().url;
    let answer = one.get(&url).await;
    assert_eq!(answer.headers()["osproxy-error"], "node_unavailable");
    expect_v0_error(answer, 503).await;
    eventually("both nodes log the reason", async || {
        (one.log().contains("the node rejected the token")
            && two.log().contains("the token of a forwarded request is invalid"))
        .then_some(())
    })
    .await;
}

/// No input of a client makes a node connect to another host.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn no_request_leads_elsewhere() {
    let one = Service::start_on(SERVER, &[]).await;
    let two = one.start_second_node(&[]).await;
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = trap.local_addr().unwrap();
    let caught = Arc::<AtomicU32>::default();
    let counter = caught.clone();
    tokio::spawn(async move {
        while trap.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let uid = two.store("x.bin", b"x").await;
    let link = one.upload_link("y.bin").await;
    assert_eq!(two.put_part(&link, 1, b"one").await.status(), 200);
    let url = one.download_link(&uid).await.unwrap().url;
    let part = format!("{}&chunkNum=2", link.url.multi.upload);
    for (method, target, fields) in [
        ("GET", format!("http://{elsewhere}{url}"), String::new()),
        ("GET", url.clone(), format!("X-Forwarded-Host: {elsewhere}\r\nForwarded: host={elsewhere}\r\n")),
        ("GET", format!("{url}&bucket={elsewhere}"), String::new()),
        ("GET", format!("{url}&address={elsewhere}&node={elsewhere}"), String::new()),
        ("GET", format!("//{elsewhere}{url}"), String::new()),
        ("GET", format!("/@{elsewhere}{url}"), String::new()),
        ("PUT", format!("http://{elsewhere}{part}"), "Content-Length: 3\r\n".to_owned()),
        (
            "PUT",
            part.clone(),
            format!("Content-Length: 3\r\nVia: {elsewhere}\r\nOrigin: http://{elsewhere}\r\n"),
        ),
        ("CONNECT", elsewhere.to_string(), String::new()),
    ] {
        let mut client = one.connect().await;
        client.send_head(method, &target, &format!("Connection: close\r\n{fields}")).await;
        if method == "PUT" {
            client.send(b"two").await;
        }
        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 "), "{method} {target}: {answer}");
    }
    // A proxy would use the request's `Host`.
    let get = one.client().get(one.url(&url)).header("host", elsewhere.to_string()).send().await.unwrap();
    assert_eq!(get.status(), 200);
    assert_eq!(one.checkpoint(&link.uid).await, [1, 2]);
    assert_eq!(caught.load(Ordering::SeqCst), 0);
}
