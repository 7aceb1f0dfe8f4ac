//! Nodes that join, leave and die, and how others learn of it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Service, content, eventually};

const SERVER: &str = "OSPROXY_TEST_POSTGRES";
const HEARTBEAT: (&str, &str) = ("CLUSTER__HEARTBEAT", "1");

/// The output of `osproxy nodes --json`.
async fn nodes(service: &Service) -> Vec<Value> {
    let (code, said) = service.cli(&["nodes", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn addresses(nodes: &[Value]) -> Vec<&str> {
    let mut addresses: Vec<_> = nodes.iter().map(|node| node["address"].as_str().unwrap()).collect();
    addresses.sort_unstable();
    addresses
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn nodes_are_listed_while_they_are_there() {
    let mut one = Service::start_on(SERVER, &[HEARTBEAT]).await;
    let mut two = one.start_second_node(&[HEARTBEAT]).await;
    let three = one.start_second_node(&[HEARTBEAT, ("CLUSTER__ADVERTISE", "node-3.example:80")]).await;
    let listed = nodes(&one).await;
    let mut expected = vec![one.address.to_string(), two.address.to_string(), "node-3.example:80".into()];
    expected.sort_unstable();
    assert_eq!(addresses(&listed), expected);
    for node in &listed {
        assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
        assert!(node["stores"][0].as_str().unwrap().starts_with("local:"));
        let heard = node["heard_at"].as_i64().unwrap();
        assert!(heard >= node["started_at"].as_i64().unwrap());
        assert!(node["load"]["load_average"].is_number());
    }
    // The table for people.
    let (code, said) = one.cli(&["nodes"]).await;
    assert_eq!((code, said.lines().count()), (0, 4), "{said}");
    assert!(said.starts_with("ID ") && said.contains("node-3.example:80"), "{said}");
    // The next heartbeat reports the active transfers.
    let link = two.upload_link("x.bin").await;
    let mut slow = two.connect().await;
    slow.send_head("PUT", &link.url.single, "Content-Length: 10\r\n").await;
    let busy = async || {
        let listed = nodes(&one).await;
        let is_two = |node: &&Value| node["address"] == two.address.to_string();
        (listed.iter().find(is_two)?["load"]["requests"] == 1).then_some(())
    };
    eventually("the request is counted", busy).await;
    drop(slow);
    // A node that leaves is unlisted at once.
    two.signal(Signal::TERM);
    assert!(two.exit_status().await.success());
    assert_eq!(nodes(&one).await.len(), 2);
    // A node that dies is unlisted after three heartbeats.
    one.kill().await;
    let start = Instant::now();
    eventually("the dead node is unlisted", async || (nodes(&three).await.len() == 1).then_some(())).await;
    let took = start.elapsed();
    println!("a dead node is unlisted after {} ms", took.as_millis());
    assert!(took > Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_node_alone_says_so() {
    let service = Service::start().await;
    let (code, said) = service.cli(&["nodes"]).await;
    assert_eq!(code, 0, "{said}");
    if service.database().url().is_none() {
        assert!(said.contains("single node"), "{said}");
    } else {
        assert!(said.contains(&service.address.to_string()), "{said}");
    }
}

#[tokio::test]
async fn readiness_goes_down_before_requests_are_refused() {
    let mut service = Service::start_with(&[("SERVER__DRAIN_DELAY", "3")]).await;
    let bytes = content(1, 5_000_000);
    let uid = service.store("x.bin", &bytes).await;
    assert_eq!(service.get("/health/live").await.text().await.unwrap(), r#"{"status":"live"}"#);
    let ready = service.get("/health/ready").await;
    assert_eq!((ready.status().as_u16(), ready.headers().contains_key("connection")), (200, false));
    assert_eq!(ready.text().await.unwrap(), r#"{"status":"ready"}"#);
    let mut slow = service.connect().await;
    let link = service.upload_link("slow.bin").await;
    slow.send_head("PUT", &link.url.single, "Content-Length: 4\r\n").await;
    slow.send(b"sl").await;
    let start = Instant::now();
    service.signal(Signal::TERM);
    let down = async || (service.get("/health/ready").await.status() == 503).then_some(());
    eventually("the node is not ready", down).await;
    let asked = service.get("/health/ready").await;
    assert_eq!(asked.text().await.unwrap(), r#"{"status":"draining"}"#);
    // During the drain delay requests are served, on new connections too, with `Connection: close`.
    while start.elapsed() < Duration::from_secs(2) {
        let link = service.download_link(&uid).await.unwrap();
        let answer = service.get(&link.url).await;
        assert_eq!(answer.headers()["connection"], "close");
        assert!(answer.bytes().await.unwrap() == bytes);
    }
    // Requests in progress finish after the listener has closed.
    let refused = async || tokio::net::TcpStream::connect(service.address).await.err();
    eventually("the listener is closed", refused).await;
    assert!(start.elapsed() > Duration::from_secs(2));
    slow.send(b"ow").await;
    let answer = String::from_utf8(slow.read_some().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(service.exit_status().await.success());
}

/// Otherwise a proxy that does not check readiness sees failed requests whenever a node stops.
#[tokio::test(flavor = "multi_thread")]
async fn every_connection_that_is_there_when_a_node_stops_is_answered() {
    let mut service = Service::start_with(&[("SERVER__DRAIN_DELAY", "1")]).await;
    let address = service.address;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..64 {
        clients.spawn(async move {
            let mut answered = 0;
            // Connects until it is refused. The time is limited because another process may listen
            // there later.
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(5)
                && let Ok(mut connection) = TcpStream::connect(address).await
            {
                let request = b"GET /health/live HTTP/1.1\r\nhost: osproxy\r\nconnection: close\r\n\r\n";
                let mut answer = String::new();
                if client % 2 == 0 {
                    // Some send their request only after the listener has closed.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                connection.write_all(request).await.expect("the connection was reset");
                connection.read_to_string(&mut answer).await.expect("the connection was reset");
                assert!(answer.starts_with("HTTP/1.1 200 "), "no answer: {answer}");
                answered += 1;
            }
            answered
        });
    }
    service.signal(Signal::TERM);
    let answered: u32 = clients.join_all().await.into_iter().sum();
    println!("{answered} requests answered");
    assert!(service.exit_status().await.success());
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_node_without_its_database_is_not_ready_and_one_without_redis_is() {
    use crate::support::{Proxy, ProxyMode, host_and_port, redis_url};
    let one = Service::start_on(SERVER, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let database = one.database().shared_with_folder(folder.path());
    let to_database = Proxy::start(database.server()).await;
    let to_redis = Proxy::start(host_and_port(&redis_url())).await;
    let settings = database.settings_through(&to_database, Some(&to_redis));
    let two = Service::start_at(folder, database, settings, &[], &[]).await;
    let status = async || two.get("/health/ready").await.status().as_u16();
    assert_eq!(status().await, 200);
    to_redis.set(ProxyMode::Close);
    eventually("Redis is lost", async || two.log().contains("lost the connection").then_some(())).await;
    let answer = two.get("/health/ready").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), r#"{"status":"degraded","down":["cache"]}"#);
    to_database.set(ProxyMode::Close);
    let answer = eventually("the node is not ready", async || {
        let answer = two.get("/health/ready").await;
        (answer.status() == 503).then_some(answer)
    })
    .await;
    assert_eq!(
        answer.text().await.unwrap(),
        r#"{"status":"unavailable","down":["database","cache"],"uploads":"refused"}"#
    );
    to_database.set(ProxyMode::Forward);
    eventually("the node is ready again", async || (status().await == 200).then_some(())).await;
}
