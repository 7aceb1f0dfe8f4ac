//! A database or a Redis that goes away under load, and comes back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    Api, Database, Proxy, ProxyMode, Service, content, eventually, host_and_port, redis_url,
};

/// How long the server is away.
const OUTAGE: Duration = Duration::from_secs(30);
/// Limit for every answer: twice the service's database timeout, plus a margin.
const BOUND: Duration = Duration::from_secs(8);

/// What clients have observed.
#[derive(Default)]
struct Observations {
    stored: HashMap<String, u64>,
    refused: u64,
    slowest: Duration,
    wrong: Vec<String>,
}

struct Clients {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Observations>>,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    /// Starts clients that store and read continuously.
    fn start(api: &Api) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Observations>>::default());
        let run = |number: u64| tokio::spawn(client(api.clone(), number, stop.clone(), seen.clone()));
        let running = (0..4).map(run).collect();
        Self { stop, seen, running }
    }

    fn stored(&self) -> usize {
        self.seen.lock().unwrap().stored.len()
    }

    async fn end(self) -> Observations {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.running {
            client.await.unwrap();
        }
        Arc::into_inner(self.seen).unwrap().into_inner().unwrap()
    }
}

async fn client(api: Api, number: u64, stop: Arc<AtomicBool>, seen: Arc<Mutex<Observations>>) {
    let mut next = number << 32;
    while !stop.load(Ordering::SeqCst) {
        next += 1;
        let asked = api.client().post(api.url("/api/storage/v0/link/upload"));
        let asked = asked.json(&serde_json::json!({"filePath": ["x.bin"], "expire": 3600}));
        let Some(answer) = send_and_record(asked, &seen).await else {
            continue;
        };
        let answer: serde_json::Value = answer.json().await.unwrap();
        let link = &answer["data"][0];
        let sent = api.client().put(api.url(link["url"]["single"].as_str().unwrap()));
        let sent = sent.body(content(next, 2_000));
        if send_and_record(sent, &seen).await.is_some() {
            let uid = link["uid"].as_str().unwrap().to_owned();
            if seen.lock().unwrap().stored.insert(uid.clone(), next).is_some() {
                seen.lock().unwrap().wrong.push(format!("{uid} was issued twice"));
            }
        }
    }
}

/// Sends a request and records the outcome: success, or 503 with `Retry-After` within the limit.
async fn send_and_record(
    request: reqwest::RequestBuilder,
    seen: &Mutex<Observations>,
) -> Option<reqwest::Response> {
    let begun = Instant::now();
    let answer = request.send().await.unwrap();
    let mut seen = seen.lock().unwrap();
    seen.slowest = seen.slowest.max(begun.elapsed());
    match answer.status().as_u16() {
        200 => Some(answer),
        503 if answer.headers().contains_key("retry-after") => {
            seen.refused += 1;
            None
        }
        other => {
            seen.wrong.push(format!("status {other}"));
            None
        }
    }
}

async fn check(service: &mut Service, seen: Observations) {
    assert_eq!(seen.wrong, [""; 0]);
    for (uid, seed) in &seen.stored {
        assert!(service.read(uid).await == content(*seed, 2_000), "{uid} has other content");
    }
    let count = service.sql("SELECT count(*) FROM files WHERE state = 'stored'").await;
    assert!(count[0].parse::<usize>().unwrap() >= seen.stored.len());
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// A service whose connections to the database and Redis go through proxies.
async fn behind_proxies(server: &str, more: &[(&str, &str)]) -> (Service, Proxy, Proxy) {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create_on(server, folder.path()).await;
    let proxy = Proxy::start(database.server()).await;
    let redis = Proxy::start(host_and_port(&redis_url())).await;
    let settings = database.settings_through(&proxy, Some(&redis));
    // Orphans of the outage are swept soon, not after ten minutes.
    let service = Service::start_at(folder, database, settings, more, &[]).await;
    (service, proxy, redis)
}

async fn database_away(server: &str, line: ProxyMode) {
    let (mut service, proxy, _redis) = behind_proxies(server, &[("DATABASE__TIMEOUT", "3")]).await;
    let clients = Clients::start(&service);
    eventually("clients store files", async || (clients.stored() > 50).then_some(())).await;
    proxy.set(line);
    let begun = Instant::now();
    eventually("requests fail", async || (clients.seen.lock().unwrap().refused > 0).then_some(())).await;
    // The health check reports it too, within the limit.
    while begun.elapsed() < OUTAGE {
        let asked = Instant::now();
        let answer = service.get("/api/storage/v0/ping").await;
        assert_eq!(answer.status(), 503);
        assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let before = clients.stored();
    proxy.set(ProxyMode::Forward);
    let healed = Instant::now();
    eventually("clients store files again", async || (clients.stored() > before + 50).then_some(())).await;
    let recovered = healed.elapsed();
    let seen = clients.end().await;
    println!(
        "{server} {line:?}: {} stored, {} refused, slowest answer {:?}, 50 more stored {recovered:?} after the outage",
        seen.stored.len(),
        seen.refused,
        seen.slowest
    );
    assert!(seen.slowest < BOUND, "{:?}", seen.slowest);
    // The next start sweeps unfinished writes of the outage.
    service.kill().await;
    service.restart().await;
    check(&mut service, seen).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_database_that_is_cut_off_comes_back() {
    let postgres = database_away("OSPROXY_TEST_POSTGRES", ProxyMode::Close);
    let mysql = database_away("OSPROXY_TEST_MYSQL", ProxyMode::Close);
    Box::pin(futures_util::future::join(postgres, mysql)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_database_that_falls_silent_comes_back() {
    let postgres = database_away("OSPROXY_TEST_POSTGRES", ProxyMode::Stall);
    let mysql = database_away("OSPROXY_TEST_MYSQL", ProxyMode::Stall);
    Box::pin(futures_util::future::join(postgres, mysql)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn without_redis_nothing_stops_as_long_as_the_lease_holds() {
    for line in [ProxyMode::Close, ProxyMode::Stall] {
        let (mut service, _proxy, redis) = behind_proxies("OSPROXY_TEST_POSTGRES", &[]).await;
        let clients = Clients::start(&service);
        eventually("clients store files", async || (clients.stored() > 50).then_some(())).await;
        redis.set(line);
        eventually("it is down", async || service.log().contains("lost the connection").then_some(())).await;
        let before = clients.stored();
        eventually("clients continue", async || (clients.stored() > before + 300).then_some(())).await;
        redis.set(ProxyMode::Forward);
        eventually("it is back", async || service.log().contains("reconnected to Redis").then_some(())).await;
        let seen = clients.end().await;
        assert_eq!(seen.refused, 0, "{line:?}");
        check(&mut service, seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn without_redis_no_uid_is_issued_once_the_lease_is_over() {
    let short = [("CLUSTER__WORKER_LEASE", "3"), ("CLUSTER__HEARTBEAT", "1")];
    let (mut service, _proxy, redis) = behind_proxies("OSPROXY_TEST_MYSQL", &short).await;
    let clients = Clients::start(&service);
    eventually("clients store files", async || (clients.stored() > 50).then_some(())).await;
    let uid = service.store("kept.bin", b"kept").await;
    redis.set(ProxyMode::Stall);
    eventually("clients are refused", async || (clients.seen.lock().unwrap().refused > 20).then_some(()))
        .await;
    let before = clients.stored();
    assert_eq!(service.read(&uid).await, b"kept", "a read was refused");
    redis.set(ProxyMode::Forward);
    eventually("clients store files again", async || (clients.stored() > before + 50).then_some(())).await;
    let seen = clients.end().await;
    check(&mut service, seen).await;
}
