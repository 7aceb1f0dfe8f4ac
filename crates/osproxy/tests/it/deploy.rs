//! The shipped nginx configurations in front of three nodes on PostgreSQL, Redis and S3.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use osproxy_api::v1::{CreatedUpload, UploadState, UploadStatus};
use reqwest::{Body, Response};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    cluster::stack::Stack,
    grpc::{read, store},
    support::{Api, Grpc, Http2Client, Store, StoreServer, amount, content, eventually, expect_json},
};

const MIB: usize = 1 << 20;
const PARTS: usize = 16;
/// Parts that are sent concurrently.
const PARALLEL: usize = 3;
/// Memory limit of nginx for that.
const NGINX_MEMORY: u64 = 32 << 20;

/// nginx in front of nodes, as an application with a key sees it.
struct Front {
    stack: Stack,
    api: Api,
    grpc: Grpc,
    /// The address that speaks HTTP/2.
    h2: SocketAddr,
}

impl Front {
    async fn in_clear() -> Self {
        Self::open(Stack::start(Some(&Store::new(StoreServer::S3)), &SETTINGS).await).await
    }

    async fn over_tls() -> Self {
        Self::open(Stack::start_secured(Some(&Store::new(StoreServer::S3)), &SETTINGS).await).await
    }

    async fn open(stack: Stack) -> Self {
        let key = stack.nodes[0].service.create_key(&[]).await;
        let (mut api, mut grpc) = (Api::new(stack.nginx.address), stack.nginx.grpc);
        if let Some(certificate) = &stack.certificate {
            api = api.with_certificate(&certificate.cert);
            grpc = certificate.clone().start_tunnel(grpc, b"h2").await;
        }
        Self { stack, api: api.with_key(&key), grpc: Grpc::with_key(grpc, Some(&key)), h2: grpc }
    }
}

/// Longer than nginx keeps connections.
const SETTINGS: [(&str, &str); 1] = [("SERVER__DRAIN_DELAY", "3")];

/// Content of `PARTS` parts that differ in their first bytes.
struct Large {
    mib: Bytes,
    /// Size of a part, in bytes.
    part: usize,
}

impl Large {
    /// 256 MiB, nightly 1 GiB.
    fn new() -> Self {
        Self { mib: content(1, MIB).into(), part: amount(16, 64) * MIB }
    }

    fn part(&self, number: usize) -> impl Iterator<Item = Bytes> + use<> {
        let stamp = Bytes::from((number as u64).to_le_bytes().to_vec());
        let more = std::iter::repeat_n(self.mib.clone(), self.part / MIB - 1);
        [stamp, self.mib.slice(8..)].into_iter().chain(more)
    }

    fn blake3(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        (1..=PARTS).flat_map(|number| self.part(number)).for_each(|piece| {
            hasher.update(&piece);
        });
        hasher.finalize()
    }

    /// The `reach` bytes on either side of the start of a part.
    fn around(&self, number: usize, reach: usize) -> Vec<u8> {
        let [first, second, ..] = &self.part(number).collect::<Vec<_>>()[..] else { unreachable!() };
        [&self.mib[MIB - reach..], first, &second[..reach - first.len()]].concat()
    }

    /// Sends a part; with `breaks` the connection breaks in the middle.
    async fn send(
        &self,
        api: &Api,
        upload: &CreatedUpload,
        number: usize,
        breaks: bool,
    ) -> reqwest::Result<Response> {
        let pieces: Vec<_> = self.part(number).map(Ok).collect();
        let sent = if breaks { pieces.len() / 2 } else { pieces.len() };
        let end = breaks.then(|| Err(std::io::Error::other("it breaks")));
        let body = Body::wrap_stream(stream::iter(pieces.into_iter().take(sent).chain(end)));
        let part = &upload.links.as_ref().unwrap().part;
        let url = api.url(&part.replace("{number}", &number.to_string()));
        api.client().put(url).header("content-length", self.part).body(body).send().await
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn large_content_passes_in_clear_breaks_and_is_resumed() {
    passes(Front::in_clear().await, &Large::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn large_content_passes_over_tls_breaks_and_is_resumed() {
    let front = Front::over_tls().await;
    let answer = front.api.get("/health/ready").await;
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");
    passes(front, &Large::new()).await;
}

async fn passes(mut front: Front, large: &Large) {
    let api = front.api.clone();
    let wish = json!({"name": "film.mp4", "size": large.part * PARTS, "part_size": large.part});
    let upload = api.create_upload(&wish).await;
    let broken = 5;
    let sent = stream::iter(1..=PARTS).map(|number| large.send(&api, &upload, number, number == broken));
    let sent: Vec<_> = sent.buffered(PARALLEL).collect().await;
    for (number, answer) in (1..).zip(sent) {
        assert_eq!(
            answer.map_or(0, |answer| answer.status().as_u16()),
            if number == broken { 0 } else { 204 }
        );
    }
    let missing: Vec<_> = (1..=PARTS).filter(|number| *number != broken).collect();
    assert_eq!(
        api.v1_status(&upload).await.parts.iter().map(|part| *part as usize).collect::<Vec<_>>(),
        missing
    );
    assert_eq!(large.send(&api, &upload, broken, false).await.unwrap().status(), 204);
    let stored: UploadStatus = expect_json(api.v1_complete(&upload).await, 200).await;
    assert_eq!(stored.state, UploadState::Stored);

    let link = api.download_link(&upload.uid).await.unwrap().url;
    let mut hasher = blake3::Hasher::new();
    let mut pieces = api.get(&link).await.bytes_stream();
    while let Some(piece) = pieces.try_next().await.unwrap() {
        hasher.update(&piece);
    }
    assert_eq!(hasher.finalize(), large.blake3());
    let (start, reach) = (3 * large.part, 1000);
    let range = format!("bytes={}-{}", start - reach, start + reach - 1);
    let answer = api.client().get(api.url(&link)).header("range", range).send().await.unwrap();
    assert_eq!(answer.status(), 206);
    assert!(answer.bytes().await.unwrap() == large.around(4, reach));

    // HTTP/2, and gRPC with streams in both directions.
    let small = content(2, 20 * MIB);
    let uid = store(&mut front.grpc, &small).await;
    assert!(read(&mut front.grpc, &uid, 1000).await == small[1000..]);
    let link = api.download_link(&uid).await.unwrap().url;
    let mut h2 = Http2Client::connect(front.h2).await;
    let answer = h2.get(&link).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == small);
    let other = content(3, 10 * MIB);
    let link = api.upload_link("x.bin").await;
    let request = hyper::Request::put(format!("http://test{}", link.url.single)).body(other.clone().into());
    assert_eq!(h2.send(request.unwrap()).await.unwrap().status(), 200);
    assert!(api.read(&link.uid).await == other);

    let (nginx, warned) = (&front.stack.nginx, front.stack.nginx.error_log());
    assert!(!warned.contains("temporary file"), "nginx buffered a body in a file: {warned}");
    let memory = nginx.peak_memory();
    println!("nginx took {} MiB", memory >> 20);
    assert!(memory < NGINX_MEMORY, "{memory}");
    let log = nginx.access_log();
    assert!(log.contains("\"GET /api/storage/v0/download HTTP/2.0\" 200 "), "{log}");
    assert!(log.contains("\"POST /osproxy.v1.FileService/UploadFile HTTP/2.0\" 200 "), "{log}");
    assert!(!log.contains("signature"), "{log}");
}

/// Stores and reads over HTTP and gRPC until `stop` is set.
async fn work(api: Api, mut grpc: Grpc, stop: Arc<AtomicBool>, done: Arc<AtomicU32>) {
    let bytes = content(4, 3 * MIB);
    while !stop.load(Ordering::SeqCst) {
        let uid = api.store("x.bin", &bytes).await;
        assert!(api.read(&uid).await == bytes);
        let uid = store(&mut grpc, &bytes).await;
        assert!(read(&mut grpc, &uid, 0).await == bytes);
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Clients that work in the background; none of their requests may fail.
struct Working {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    clients: JoinSet<()>,
}

impl Working {
    fn begin(front: &Front) -> Self {
        let mut working = Self { stop: Arc::default(), done: Arc::default(), clients: JoinSet::new() };
        for _ in 0..3 {
            let (stop, done) = (working.stop.clone(), working.done.clone());
            working.clients.spawn(work(front.api.clone(), front.grpc.clone(), stop, done));
        }
        working
    }

    /// Waits until each client has finished another operation.
    async fn go_on(&self) {
        let before = self.done.load(Ordering::SeqCst);
        let more = async || (self.done.load(Ordering::SeqCst) >= before + 4).then_some(());
        eventually("each client has made progress", more).await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a request failed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_node_stops_and_one_dies_and_no_request_over_tls_or_grpc_fails() {
    let mut front = Front::over_tls().await;
    let working = Working::begin(&front);
    working.go_on().await;
    let first = &mut front.stack.nodes[0].service;
    first.signal(Signal::TERM);
    assert!(first.exit_status().await.success());
    working.go_on().await;
    first.restart().await;
    working.go_on().await;
    working.end().await;
    // A dying node loses its requests in progress. Other nodes answer all later ones.
    front.stack.nodes[2].service.kill().await;
    let working = Working::begin(&front);
    working.go_on().await;
    working.end().await;
}
