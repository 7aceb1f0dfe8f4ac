//! A store that resets, stalls, refuses, trickles, and truncates answers.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::StatusCode;

use crate::support::{
    Api, Fault, FaultyProxy, Random, Service, Store, StoreServer, content, eventually, md5_hex,
};

const MIN: usize = 5 << 20;
/// How often a client tries before it gives up.
const TRIES: u32 = 30;
const CLIENTS: u64 = 3;
const OPERATIONS: u64 = 100;

/// A client that repeats temporarily refused requests, and relies on the answers it gets.
struct Client {
    api: Api,
    random: Random,
    number: u64,
    stored: HashMap<String, (u64, usize)>,
    operations: u64,
    tries: u64,
}

impl Client {
    async fn run(mut self) -> Self {
        while self.operations < OPERATIONS {
            match self.random.below(10) {
                0 | 1 => self.whole().await,
                2 => self.parts(MIN).await,
                3 => self.parts(50_000).await,
                _ => self.read_some().await,
            }
        }
        self
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Repeats the request until it succeeds.
    async fn put(&mut self, url: &str, bytes: &[u8]) {
        self.operations += 1;
        for _ in 0..TRIES {
            self.tries += 1;
            let request = self.api.client().put(self.api.url(url)).body(bytes.to_vec());
            let answer = match request.send().await {
                // Each store request has its own timeout, and some requests need many of them.
                Err(error) if error.is_timeout() => continue,
                answer => answer.unwrap(),
            };
            match answer.status().as_u16() {
                200 => return,
                503 => assert!(answer.headers().contains_key("retry-after")),
                other => panic!("{other}: {}", answer.text().await.unwrap()),
            }
        }
        panic!("refused too often: {url}");
    }

    async fn whole(&mut self) {
        let (seed, size) = (self.next(), self.random.index(3_000_000));
        let bytes = content(seed, size);
        let link = self.api.upload_link("x.bin").await;
        self.put(&format!("{}&md5={}", link.url.single, md5_hex(&bytes)), &bytes).await;
        self.stored.insert(link.uid, (seed, size));
    }

    async fn parts(&mut self, part: usize) {
        let (seed, size) = (self.next(), part + self.random.index(part * 2));
        let bytes = content(seed, size);
        let link = self.api.upload_link("y.mp4").await;
        let parts: Vec<_> = bytes.chunks(part).collect();
        for (number, part) in (1..).zip(&parts) {
            let url = format!("{}&chunkNum={number}&md5={}", link.url.multi.upload, md5_hex(part));
            self.put(&url, part).await;
        }
        let count = parts.len();
        let url = format!("{}&num={count}&size={size}&md5={}", link.url.multi.merge, md5_hex(&bytes));
        self.put(&url, b"").await;
        self.stored.insert(link.uid, (seed, size));
    }

    async fn read_some(&mut self) {
        let Some(at) = (!self.stored.is_empty()).then(|| self.random.index(self.stored.len())) else {
            return;
        };
        let (uid, (seed, size)) = self.stored.iter().nth(at).map(|(uid, what)| (uid.clone(), *what)).unwrap();
        let bytes = content(seed, size);
        let start = self.random.index(size.max(1));
        let end = if self.random.percent(50) { size } else { start + self.random.index(size - start + 1) };
        self.operations += 1;
        for _ in 0..TRIES {
            self.tries += 1;
            match read(&self.api, &uid, start, end).await {
                Some(read) => {
                    assert!(read == bytes[start..end.max(start + 1).min(size)], "wrong bytes of {uid}");
                    return;
                }
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("cannot read {uid}");
    }
}

/// Reads a range of a file; `None` if it was temporarily refused, or cut.
async fn read(api: &Api, uid: &str, start: usize, end: usize) -> Option<Vec<u8>> {
    let url = api.download_link(uid).await.expect("an acknowledged file is missing").url;
    let mut request = api.client().get(api.url(&url));
    let wanted = end.saturating_sub(start).max(1);
    if start > 0 || wanted > 1 {
        request = request.header("range", format!("bytes={start}-{}", start + wanted - 1));
    }
    let answer = request.send().await.ok()?;
    match answer.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
            let announced = answer.content_length();
            // A truncated answer is an error here.
            let bytes = answer.bytes().await.ok()?.to_vec();
            assert_eq!(announced, Some(bytes.len() as u64));
            Some(bytes)
        }
        // An empty file has no satisfiable range.
        StatusCode::RANGE_NOT_SATISFIABLE => Some(Vec::new()),
        StatusCode::SERVICE_UNAVAILABLE => None,
        other => panic!("{other}"),
    }
}

/// 300 operations while at least one in five store requests fails.
async fn unreliable_store(server: StoreServer) {
    let store = Store::new(server);
    let wire = FaultyProxy::start(store.address(), 42 + server as u64).await;
    let settings = [("STORES__TIMEOUT", "2"), ("STORES__MAX_ATTEMPTS", "4")];
    let mut service = Service::start_on_store(&store, Some(&wire), &settings).await;
    wire.set_fault_rate(4);
    let begun = Instant::now();
    let clients = (1..=CLIENTS).map(|client| {
        let client = Client {
            api: Api::clone(&service),
            random: Random::new(client),
            number: client << 32,
            stored: HashMap::new(),
            operations: 0,
            tries: 0,
        };
        tokio::spawn(client.run())
    });
    let mut stored = HashMap::new();
    let (mut operations, mut tries) = (0, 0);
    for client in futures_util::future::join_all(clients).await {
        let client = client.unwrap();
        operations += client.operations;
        tries += client.tries;
        stored.extend(client.stored);
    }
    wire.set_fault_rate(0);
    let (requests, troubles) = wire.faults();
    println!(
        "{server:?}: {operations} operations took {tries} tries and {requests} requests, of which {} went wrong, {:?}",
        troubles.len(),
        begun.elapsed()
    );
    assert!(operations >= 300);
    assert!(troubles.len() as u64 * 5 >= requests, "too few faults were injected");
    // Orphans are swept at the next start, and failed tasks are retried.
    service.kill().await;
    service.restart().await;
    let (code, dead) = service.cli(&["tasks", "ls", "--state", "dead"]).await;
    assert_eq!(code, 0);
    for line in dead.lines().skip(1) {
        let id = line.split_whitespace().next().unwrap();
        assert_eq!(service.cli(&["tasks", "retry", id]).await.0, 0, "{line}");
    }
    service.database().wait_until_idle().await;
    for (uid, (seed, size)) in &stored {
        assert!(service.read(uid).await == content(*seed, *size), "{uid} has other content");
    }
    assert_eq!(service.objects().len(), stored.len(), "an orphan was left");
    service.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn an_unreliable_s3_costs_no_byte() {
    unreliable_store(StoreServer::S3Parts).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn an_unreliable_oss_costs_no_byte() {
    unreliable_store(StoreServer::Oss).await;
}

/// A single failure is invisible to a reader: the service resumes at the byte where the store
/// stopped.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_reader_does_not_see_that_the_store_broke_off() {
    for server in [StoreServer::S3, StoreServer::Cos] {
        let store = Store::new(server);
        let wire = FaultyProxy::start(store.address(), 1).await;
        let service = Service::start_on_store(&store, Some(&wire), &[("STORES__TIMEOUT", "1")]).await;
        let bytes = content(1, 12_000_000);
        let uid = service.store("x.bin", &bytes).await;
        for trouble in [
            Fault::Truncate(0),
            Fault::Truncate(5_000_000),
            Fault::Reset(5_000_000),
            Fault::Stall(5_000_000),
            Fault::Unavailable,
            Fault::Slow,
        ] {
            let before = wire.received();
            wire.plan_fault("GET", trouble);
            assert!(service.read(&uid).await == bytes, "{trouble:?}");
            let taken = wire.received() - before;
            // A reset discards buffered bytes; starting again would take 17 MB.
            assert!(taken < 16_500_000, "{trouble:?}: {taken} bytes were read");
        }
    }
}

/// If the store keeps failing, the download is cut; it never looks complete.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_store_that_always_breaks_off_cuts_the_reader() {
    let store = Store::new(StoreServer::S3);
    let wire = FaultyProxy::start(store.address(), 1).await;
    let settings = [("STORES__TIMEOUT", "1"), ("STORES__MAX_ATTEMPTS", "2")];
    let mut service = Service::start_on_store(&store, Some(&wire), &settings).await;
    let bytes = content(1, 3_000_000);
    let uid = service.store("x.bin", &bytes).await;
    for _ in 0..2 {
        wire.plan_fault("GET", Fault::Truncate(1_000_000));
    }
    wire.plan_fault("GET", Fault::Unavailable);
    let url = service.url(&service.download_link(&uid).await.unwrap().url);
    let answer = service.client().get(&url).send().await.unwrap();
    assert_eq!((answer.status(), answer.content_length()), (StatusCode::OK, Some(3_000_000)));
    // The second try delivers some bytes, the third and fourth none.
    wire.plan_fault("GET", Fault::Unavailable);
    let read = answer.bytes().await;
    assert!(read.is_err(), "{:?}", read.map(|read| read.len()));
    assert!(service.read(&uid).await == bytes);
    service.assert_consistent().await;
}

/// The store accepts the last byte and never answers: the client gets an error in time, and can
/// repeat the upload.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_store_that_falls_silent_is_given_up_in_time() {
    let store = Store::new(StoreServer::Oss);
    let wire = Arc::new(FaultyProxy::start(store.address(), 1).await);
    let mut service = Service::start_on_store(&store, Some(&wire), &[("STORES__TIMEOUT", "1")]).await;
    let bytes = content(1, MIN + 1);
    let link = service.upload_link("x.bin").await;
    service.put_parts(&link, &[&bytes[..MIN]]).await;
    wire.set_silent(true);
    let begun = Instant::now();
    let answer = service.put_part(&link, 2, &bytes[MIN..]).await;
    assert_eq!(answer.status(), 503);
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    wire.set_silent(false);
    eventually("the upload can be repeated", async || {
        (service.put_part(&link, 2, &bytes[MIN..]).await.status() == 200).then_some(())
    })
    .await;
    wire.plan_fault("POST", Fault::ErrorAfterSuccess);
    assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200, "the upload was not repeatable");
    assert!(service.read(&link.uid).await == bytes);
    service.kill().await;
    service.restart().await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// An object that appears after the service gave up on it still has a row, and is removed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn what_appears_late_in_a_store_does_not_stay() {
    for (server, size) in [(StoreServer::S3Parts, 1_000), (StoreServer::Oss, 3_000_000)] {
        let store = Store::new(server);
        let wire = FaultyProxy::start(store.address(), 1).await;
        let settings = [("STORES__TIMEOUT", "1"), ("STORES__MAX_ATTEMPTS", "1")];
        let mut service = Service::start_on_store(&store, Some(&wire), &settings).await;
        let link = service.upload_link("x.bin").await;
        wire.plan_fault("PUT", Fault::Delay(3_000));
        let bytes = content(1, size);
        assert_eq!(service.put(&link.url.single, &bytes).await.status(), 503);
        assert!(service.objects().is_empty());
        eventually("the object appears", async || (!service.objects().is_empty()).then_some(())).await;
        // The repeated upload is stored, and the late object is removed.
        assert_eq!(service.put(&link.url.single, &bytes).await.status(), 200);
        service.kill().await;
        service.restart().await;
        service.database().wait_until_idle().await;
        assert_eq!(service.objects().len(), 1);
        assert!(service.read(&link.uid).await == bytes);
        service.assert_consistent().await;
    }
}
