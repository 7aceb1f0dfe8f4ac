//! What one tenant does with its endpoints does not hold up another one.

use std::{net::Ipv4Addr, time::Instant};

use osproxy_api::v1::WebhookTest;
use reqwest::Method;
use serde_json::json;

use super::{LOCAL, create, create_for};
use crate::support::{Answer, Api, NameServer, PATIENCE, Receiver, Service, eventually, expect_json};

/// A client of another tenant.
async fn other_tenant(service: &Service) -> Api {
    service.with_key(&service.create_key(&["--tenant", "shop", "--scopes", "admin,upload,read"]).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_never_resolved_hold_up_no_other_tenant() {
    const DEAD: usize = 30;
    let names = NameServer::start(&[("live.example.test", Ipv4Addr::LOCALHOST)]).await;
    let mut service = Service::start_configured(LOCAL).await;
    service.restart_configured_with_names(&names.resolv_conf()).await;
    let other = other_tenant(&service).await;
    for number in 0..DEAD {
        let url = format!("http://dead{number}.example.test/hook");
        create(&service, &json!({"url": url, "types": ["file.completed"]})).await;
    }
    let receiver = Receiver::start().await;
    let url = format!("http://live.example.test:{}/hook?token=hush", receiver.address.port());
    create(&other, &json!({"url": url, "types": ["file.completed"]})).await;
    service.store("a", b"x").await;
    eventually("names are looked up", async || (names.asked("dead").len() >= 16).then_some(())).await;
    let start = Instant::now();
    let uid = other.store("b", b"x").await;
    receiver.wait_for_event("file.completed", &uid).await;
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    // Attempts end after a second, and are repeated. Lookups take half a minute.
    for number in 0..5 {
        service.store(&number.to_string(), b"x").await;
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    }
    let asked = names.asked("dead");
    assert_eq!(asked.len(), 16, "half of all lookups: {asked:?}");
    assert!(asked.iter().all(|times| *times <= 2), "a name is looked up once at a time: {asked:?}");
    let uid = other.store("c", b"x").await;
    receiver.wait_for_event("file.completed", &uid).await;
}

#[tokio::test]
async fn a_test_does_not_tell_which_names_exist_in_internal_networks() {
    let names =
        [("internal.example.test", Ipv4Addr::new(10, 1, 2, 3)), ("local.example.test", Ipv4Addr::LOCALHOST)];
    let names = NameServer::start(names.to_vec().leak()).await;
    let mut service = Service::start_configured("webhooks: {allow_http: true}").await;
    service.restart_configured_with_names(&names.resolv_conf()).await;
    for host in ["internal", "local", "missing"] {
        let url = format!("http://{host}.example.test/hook");
        let webhook = create(&service, &json!({"url": url, "types": ["file.completed"]})).await;
        let test = service.v1(Method::POST, &format!("/webhooks/{}/test", webhook.id), None).await;
        let test: WebhookTest = expect_json(test, 200).await;
        let expected =
            "the host has no address that messages may be sent to; see `webhooks.allowed_networks`";
        assert_eq!((test.delivered, test.error.as_deref()), (false, Some(expected)), "{host}");
        let uid = service.store(host, b"x").await;
        let failed = super::wait_for_delivery(&service, &webhook, &uid, |_| true).await;
        assert_eq!(failed.error.as_deref(), Some(expected), "{host}");
    }
    // Its operator reads more.
    let log = service.log();
    for part in ["internal.example.test", "10.1.2.3", "127.0.0.1", "missing.example.test"] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_endpoints_of_one_tenant_leave_slots_to_others() {
    const ENDPOINTS: usize = 5;
    const FILES: usize = 300;
    // The attempts of hanging endpoints outlast the test.
    let config =
        "webhooks: {allow_http: true, allowed_networks: [127.0.0.0/8], timeout: 5m, max_concurrency: 256}";
    let service = Service::start_configured(config).await;
    let other = other_tenant(&service).await;
    let (slow, good) = (Receiver::start().await, Receiver::start().await);
    for _ in 0..ENDPOINTS {
        create_for(&service, &slow).await;
    }
    let store_all = async || {
        for first in (0..FILES).step_by(20) {
            let stored =
                (first..first + 20).map(async |number| service.store(&number.to_string(), b"x").await);
            futures_util::future::join_all(stored).await;
        }
    };
    // Each success allows another concurrent attempt.
    store_all().await;
    slow.wait_for(ENDPOINTS * FILES).await;
    slow.set_answer(Answer::Hang);
    store_all().await;
    slow.wait_for(ENDPOINTS * FILES + 512).await;
    let start = Instant::now();
    create_for(&other, &good).await;
    for number in 0..20 {
        let uid = other.store(&number.to_string(), b"x").await;
        good.wait_for_event("file.completed", &uid).await;
    }
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    let hanging = slow.received().len() - ENDPOINTS * FILES;
    assert_eq!(hanging, 512, "half of all attempts");
}

/// The number of queries so far.
async fn queries(service: &Service) -> u64 {
    let page = service.get("/metrics").await.text().await.unwrap();
    let name = "osproxy_database_operation_seconds_count{operation=\"read\"} ";
    let count = page.lines().find_map(|line| line.strip_prefix(name)).expect(&page);
    count.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_once_for_endpoints_that_do_not_get_them() {
    const FILES: usize = 100;
    let service = super::start().await;
    let receiver = Receiver::start().await;
    let store_all = async || {
        let before = queries(&service).await;
        for number in 0..FILES {
            service.store(&number.to_string(), b"x").await;
        }
        queries(&service).await - before
    };
    let alone = store_all().await;
    for _ in 0..50 {
        create(&service, &json!({"url": receiver.url(), "types": ["quota.exceeded"]})).await;
    }
    let webhook = create_for(&service, &receiver).await;
    let first = service.store("first", b"x").await;
    receiver.wait_for_event("file.completed", &first).await;
    let with_endpoints = store_all().await;
    receiver.wait_for(FILES + 1).await;
    // The events are looked for every 20 ms at most, and then read for one endpoint.
    println!("{alone} queries without endpoints, {with_endpoints} with 51");
    assert!(with_endpoints < alone + 10 * FILES as u64, "{alone} {with_endpoints}");
    assert!(receiver.accepted().iter().all(|message| message.kind() == "file.completed"));
    // A filter that is changed takes effect for events that nobody was woken for.
    super::update(&service, &webhook, &json!({"types": ["file.created"]})).await;
    let uid = service.store("last", b"x").await;
    receiver.wait_for_event("file.created", &uid).await;
}
