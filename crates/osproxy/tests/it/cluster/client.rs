//! A well-behaved client: it repeats requests that got no answer, and relies on answers it got.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use osproxy_api::v0::{DownloadLink, Envelope, InstantUploadResult, UploadLinks};
use reqwest::{Client as Http, Method, StatusCode, header::HeaderMap};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{Api, Random, content, md5_hex, tus::number};

/// Timeout of one try.
const TRY: Duration = Duration::from_secs(8);
/// A client fails after this long: the service has not recovered.
const RECOVERED: Duration = Duration::from_secs(90);
/// Parts of an upload that are sent concurrently.
const PARALLEL: usize = 3;

/// The time until a request was answered.
pub struct RequestTime {
    pub started: Instant,
    pub took: Duration,
    /// How often it was repeated.
    pub retries: u32,
}

/// State shared by all clients.
#[derive(Default)]
pub struct Ledger {
    /// Every uid that was issued.
    pub issued: Mutex<Vec<String>>,
    /// Acknowledged files.
    pub stored: Mutex<Vec<Stored>>,
    pub waits: Mutex<Vec<RequestTime>>,
    pub stop: AtomicBool,
    /// While set, every try must succeed.
    pub strict: AtomicBool,
}

/// An acknowledged file; its content follows from the seed.
#[derive(Clone)]
pub struct Stored {
    pub uid: String,
    seed: u64,
    size: usize,
}

impl Stored {
    fn bytes(&self) -> Vec<u8> {
        content(self.seed, self.size)
    }
}

/// An answer other than "unavailable".
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub struct Client {
    http: Http,
    key: String,
    base: String,
    ledger: Arc<Ledger>,
    random: Random,
    /// Smallest and largest size of a part.
    parts: Range<usize>,
}

impl Client {
    /// A client of the service at this address, with its key.
    pub fn new(api: &Api, ledger: Arc<Ledger>, seed: u64, parts: Range<usize>) -> Self {
        let http = Http::builder().connect_timeout(Duration::from_secs(2)).build().unwrap();
        let key = api.key().unwrap().to_owned();
        Self { http, key, base: api.url(""), ledger, random: Random::new(seed), parts }
    }

    /// Works until `stop` is set, and finishes its current operation.
    pub async fn run(mut self) {
        while !self.ledger.stop.load(Ordering::SeqCst) {
            match self.random.below(10) {
                0..=2 => self.send_whole().await,
                3..=4 => self.send_in_parts().await,
                5..=6 => self.send_over_tus().await,
                7 => self.send_known().await,
                _ => self.read_some().await,
            }
        }
    }

    /// Repeats a request until the answer is something other than "unavailable".
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
        headers: &[(&'static str, String)],
    ) -> Answer {
        let start = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
            request = request.bearer_auth(&self.key).timeout(TRY);
            if method != Method::GET {
                request = request.header("content-length", body.len()).body(body.to_vec());
            }
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let answer = async {
                let answer = request.send().await?;
                let (status, headers) = (answer.status(), answer.headers().clone());
                Ok::<_, reqwest::Error>(Answer { status, headers, body: answer.bytes().await?.to_vec() })
            };
            let failed = match answer.await {
                // From osproxy (in tus, 423 in response to HEAD), or from nginx when it reaches no node.
                Ok(answer)
                    if matches!(
                        answer.status,
                        StatusCode::SERVICE_UNAVAILABLE
                            | StatusCode::BAD_GATEWAY
                            | StatusCode::GATEWAY_TIMEOUT
                            | StatusCode::LOCKED
                    ) =>
                {
                    format!("{} {}", answer.status, answer.text())
                }
                Ok(answer) => {
                    assert!(
                        !answer.status.is_server_error(),
                        "{method} {path}: {} {}",
                        answer.status,
                        answer.text()
                    );
                    let wait = RequestTime { started: start, took: start.elapsed(), retries: tries - 1 };
                    self.ledger.waits.lock().unwrap().push(wait);
                    return answer;
                }
                Err(error) => format!("{error:?}"),
            };
            assert!(!self.ledger.strict.load(Ordering::SeqCst), "{method} {path}: {failed}");
            assert!(start.elapsed() < RECOVERED, "{method} {path}: {failed}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn post<T: DeserializeOwned>(&self, route: &str, body: &Value) -> T {
        let path = format!("/api/storage/v0{route}");
        let answer = self.request(Method::POST, &path, body.to_string().as_bytes(), &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice::<Envelope<T>>(&answer.body).unwrap().data
    }

    async fn put(&self, path: &str, body: &[u8]) {
        let answer = self.request(Method::PUT, path, body, &[]).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }

    async fn link(&self) -> UploadLinks {
        let links: Vec<UploadLinks> =
            self.post("/link/upload", &json!({"filePath": ["x.bin"], "expire": 3600})).await;
        let link = links.into_iter().next().unwrap();
        self.ledger.issued.lock().unwrap().push(link.uid.clone());
        link
    }

    async fn send_whole(&mut self) {
        let (link, stored) = self.new_content(200_000).await;
        let bytes = stored.bytes();
        self.put(&format!("{}&md5={}", link.url.single, md5_hex(&bytes)), &bytes).await;
        self.acknowledged(stored).await;
    }

    async fn new_content(&mut self, largest: usize) -> (UploadLinks, Stored) {
        let link = self.link().await;
        let (seed, size) = (self.random.below(u64::MAX), 1 + self.random.index(largest));
        let uid = link.uid.clone();
        (link, Stored { uid, seed, size })
    }

    async fn send_in_parts(&mut self) {
        let part = self.parts.start + self.random.index(self.parts.len());
        let (link, stored) = self.new_content(part * 5).await;
        let bytes = stored.bytes();
        let chunks: Vec<_> = bytes.chunks(part).map(<[u8]>::to_vec).collect();
        let count = chunks.len();
        let client = &*self;
        let sending = stream::iter(chunks.into_iter().zip(1_u32..).map(|(chunk, number)| {
            let url = format!("{}&chunkNum={number}&md5={}", link.url.multi.upload, md5_hex(&chunk));
            async move { client.put(&url, &chunk).await }
        }));
        sending.buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
        let (size, md5) = (bytes.len(), md5_hex(&bytes));
        self.put(&format!("{}&num={count}&size={size}&md5={md5}", link.url.multi.merge), &[]).await;
        self.acknowledged(stored).await;
    }

    /// Sends content over tus, in random pieces. Asserts that the offset never decreases.
    async fn send_over_tus(&mut self) {
        let (seed, size) = (self.random.below(u64::MAX), 1 + self.random.index(self.parts.end * 2));
        let version = ("tus-resumable", "1.0.0".to_owned());
        let creation = [version.clone(), ("upload-length", size.to_string())];
        let answer = self.request(Method::POST, "/tus", &[], &creation).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let url = answer.headers["location"].to_str().unwrap().to_owned();
        let stored = Stored { uid: answer.headers["osproxy-uid"].to_str().unwrap().to_owned(), seed, size };
        self.ledger.issued.lock().unwrap().push(stored.uid.clone());
        let (bytes, mut told) = (stored.bytes(), 0);
        let check_offset = |answer: &Answer, told: usize| {
            let offset = number(&answer.headers, "upload-offset").expect("an offset");
            assert!((told..=size).contains(&offset), "{url}: {offset} of {size} after {told}");
            offset
        };
        loop {
            let answer = self.request(Method::HEAD, &url, &[], std::slice::from_ref(&version)).await;
            assert_eq!(answer.status, 200, "{url}");
            told = check_offset(&answer, told);
            if told == size {
                break;
            }
            let end = told + 1 + self.random.index(size - told);
            let octets = ("content-type", "application/offset+octet-stream".to_owned());
            let patch = [version.clone(), octets, ("upload-offset", told.to_string())];
            let body = &bytes[told..end];
            let answer = self.request(Method::PATCH, &url, body, &patch).await;
            match answer.status.as_u16() {
                // An earlier try may have got through, and a request of an earlier try may end this one.
                204 | 409 => told = check_offset(&answer, told),
                400 if answer.headers["osproxy-error"] == "superseded" => {}
                _ => panic!("{url}: {} {}", answer.status, answer.text()),
            }
        }
        self.acknowledged(stored).await;
    }

    /// Tries an instant upload of known content; it succeeds only once osproxy has verified that
    /// content.
    async fn send_known(&mut self) {
        let Some(known) = self.any() else { return };
        let md5 = md5_hex(&known.bytes());
        let answers: Vec<InstantUploadResult> =
            self.post("/resume", &json!({"data": [{"md5": md5, "path": "known.bin"}]})).await;
        let uid = answers.into_iter().next().unwrap().uid;
        if !uid.is_empty() {
            self.ledger.issued.lock().unwrap().push(uid.clone());
            self.acknowledged(Stored { uid, ..known }).await;
        }
    }

    async fn read_some(&mut self) {
        let Some(known) = self.any() else { return };
        let from = self.random.index(known.size);
        let to = from + 1 + self.random.index(known.size - from);
        self.check(&known, Some(from..to)).await;
    }

    fn any(&mut self) -> Option<Stored> {
        let stored = self.ledger.stored.lock().unwrap();
        (!stored.is_empty()).then(|| stored[self.random.index(stored.len())].clone())
    }

    /// An acknowledged file must be readable from now on.
    async fn acknowledged(&self, stored: Stored) {
        self.ledger.stored.lock().unwrap().push(stored.clone());
        self.check(&stored, None).await;
    }

    /// Reads a file, or a range of it, and compares the bytes.
    pub async fn check(&self, stored: &Stored, range: Option<Range<usize>>) {
        let links: Option<Vec<DownloadLink>> =
            self.post("/link/download", &json!({"uid": [stored.uid], "expire": 600})).await;
        let links = links.unwrap_or_else(|| panic!("{} was acknowledged, but is missing", stored.uid));
        let header = |range: &Range<usize>| ("range", format!("bytes={}-{}", range.start, range.end - 1));
        let headers: Vec<_> = range.iter().map(header).collect();
        let answer = self.request(Method::GET, &links[0].url, &[], &headers).await;
        let expected = if range.is_some() { 206 } else { 200 };
        assert_eq!(answer.status, expected, "{}: {}", stored.uid, answer.text());
        let bytes = stored.bytes();
        assert!(answer.body == bytes[range.unwrap_or(0..stored.size)], "{} has wrong content", stored.uid);
    }
}
