//! The client address behind proxies.

use serde_json::Value;

use crate::support::{Service, eventually, spawn_failing};

/// The peer in the access log line of a request with this id.
async fn peer_of(service: &Service, id: &str, name: &str, value: &str) -> String {
    let request = service.client().get(service.url("/openapi.json")).header("x-request-id", id);
    request.header(name, value).send().await.unwrap();
    let line = eventually("the request is logged", async || {
        let log = service.log();
        log.lines().find(|line| line.contains(&format!("\"{id}\""))).map(str::to_owned)
    })
    .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    line["peer"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_forged_x_forwarded_for_is_not_believed() {
    let service = Service::start_with(&[("LOG__FORMAT", "json")]).await;
    for (id, name) in [("one", "x-forwarded-for"), ("two", "forwarded")] {
        assert_eq!(peer_of(&service, id, name, "for=203.0.113.9").await, "127.0.0.1");
    }
    assert_eq!(peer_of(&service, "three", "x-forwarded-for", "203.0.113.9").await, "127.0.0.1");

    // The address from a trusted proxy is used; addresses its client invented are not.
    let config = "server: {trusted_proxies: [127.0.0.0/8, '10.1.2.3']}\nlog: {format: json}";
    let service = Service::start_configured(config).await;
    let forged = "198.51.100.1, 203.0.113.9, 10.1.2.3";
    assert_eq!(peer_of(&service, "four", "x-forwarded-for", forged).await, "203.0.113.9");
    assert_eq!(
        peer_of(&service, "five", "forwarded", "for=\"[2001:db8::1]:1\";proto=https").await,
        "2001:db8::1"
    );
    // A quoted string is one value, and a malformed header yields no address.
    let quoted = "host=\"a,for=10.1.1.1\";for=203.0.113.9";
    assert_eq!(peer_of(&service, "quoted", "forwarded", quoted).await, "203.0.113.9");
    for (id, malformed) in
        [("open", "host=\"a, for=198.51.100.1"), ("twice", "for=198.51.100.1;for=198.51.100.2")]
    {
        assert_eq!(peer_of(&service, id, "forwarded", malformed).await, "127.0.0.1");
    }
    assert_eq!(peer_of(&service, "six", "x-forwarded-for", "203.0.113.9, nonsense").await, "127.0.0.1");
}

#[tokio::test]
async fn what_is_no_network_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["check-config", "--config", "bad.yaml"];
    for net in ["10.0.0.0/33", "proxy", "7"] {
        std::fs::write(folder.path().join("bad.yaml"), format!("server: {{trusted_proxies: [{net}]}}"))
            .unwrap();
        let (_, _, complaint) = spawn_failing(folder.path(), &[], &arguments).await;
        assert!(complaint.contains("server.trusted_proxies[0]: must be"), "{complaint}");
    }
}
