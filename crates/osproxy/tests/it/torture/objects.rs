//! Clients of the S3 API. Each has keys of its own, and knows which contents each of them can have.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::content::{Piece, Recipe, bytes_of};
use crate::support::{Random, S3Answer, S3Key, S3Request, Service, md5_hex};

/// The number of keys of a client: few, so that most changes replace or delete an object.
const KEYS: u64 = 3;
/// Minimum size in bytes of a part that is not the last.
const PART: usize = 5 << 20;

/// The S3 listener of a running service, and a key.
#[derive(Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub key: S3Key,
}

impl Endpoint {
    /// Finds the listener of a service that has started `starts` times.
    pub async fn find(service: &Service, starts: usize, key: &S3Key) -> Self {
        Self { address: crate::s3_api::listener_address(service, starts).await, key: key.clone() }
    }

    async fn send(&self, method: &'static str, path: &str, query: &str, body: Vec<u8>) -> Option<S3Answer> {
        let mut request = S3Request::get(self.address, path);
        (request.method, request.query, request.body) = (method, query.to_owned(), body);
        request.try_send(self.address, &self.key).await
    }

    pub async fn create_bucket(&self) {
        assert_eq!(self.send("PUT", "/torture", "", Vec::new()).await.unwrap().status, 200);
    }
}

/// What one client has written.
pub struct Objects {
    client: u64,
    /// The possible contents of each key; `None` stands for no object. The first one is that of the
    /// last acknowledged change; the others are those of later changes without an answer.
    possible: BTreeMap<String, Vec<Option<Recipe>>>,
    /// The number of acknowledged changes.
    pub changes: u64,
}

impl Objects {
    pub fn new(client: u64) -> Self {
        Self { client, possible: BTreeMap::new(), changes: 0 }
    }

    /// Writes and reads until the service goes away.
    pub async fn run(mut self, endpoint: Endpoint, killed: Arc<AtomicBool>, seed: u64) -> Self {
        let mut random = Random::new(seed);
        while self.act(&endpoint, &mut random).await.is_some() {}
        assert!(killed.load(Ordering::SeqCst), "a request failed while the service was running");
        self
    }

    async fn act(&mut self, endpoint: &Endpoint, random: &mut Random) -> Option<()> {
        let path = format!("/torture/{}/{}", self.client, random.below(KEYS));
        match random.below(10) {
            0..5 => {
                let recipe = vec![Piece::random(random)];
                let body = bytes_of(&recipe);
                self.change(endpoint, ("PUT", &path, ""), body, Some(recipe)).await
            }
            5..7 => self.upload(endpoint, &path, random).await,
            7 => self.change(endpoint, ("DELETE", &path, ""), Vec::new(), None).await,
            _ => self.check(endpoint, &path).await,
        }
    }

    /// Sends a request that gives the key this content, once it is acknowledged.
    async fn change(
        &mut self,
        endpoint: &Endpoint,
        (method, path, query): (&'static str, &str, &str),
        body: Vec<u8>,
        content: Option<Recipe>,
    ) -> Option<()> {
        let possible = self.possible.entry(path.to_owned()).or_insert_with(|| vec![None]);
        possible.push(content.clone());
        let answer = endpoint.send(method, path, query, body).await?;
        let is_done = matches!(answer.status, 200 | 204) && answer.element("Code").is_empty();
        assert!(is_done, "{method} {path}: {}", answer.text);
        self.possible.insert(path.to_owned(), vec![content]);
        self.changes += 1;
        Some(())
    }

    /// An upload in parts. Some stay incomplete.
    async fn upload(&mut self, endpoint: &Endpoint, path: &str, random: &mut Random) -> Option<()> {
        let created = endpoint.send("POST", path, "uploads=", Vec::new()).await?;
        let id = created.element("UploadId").to_owned();
        let mut recipe = vec![Piece::random(random)];
        if random.percent(20) {
            recipe.insert(0, Piece::new(random.below(u64::MAX), PART));
        }
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, piece) in (1..).zip(&recipe) {
            let bytes = piece.bytes();
            let etag = md5_hex(&bytes);
            let answer =
                endpoint.send("PUT", path, &format!("partNumber={number}&uploadId={id}"), bytes).await?;
            assert_eq!((answer.status, answer.header("etag")), (200, &*format!("\"{etag}\"")));
            write!(list, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>").unwrap();
        }
        if random.percent(30) {
            return Some(());
        }
        list += "</CompleteMultipartUpload>";
        let query = format!("uploadId={id}");
        self.change(endpoint, ("POST", path, &query), list.into_bytes(), Some(recipe)).await
    }

    /// Reads a key, which must have one of its possible contents.
    async fn check(&self, endpoint: &Endpoint, path: &str) -> Option<()> {
        let answer = endpoint.send("GET", path, "", Vec::new()).await?;
        let found = match answer.status {
            200 => Some(answer.body()),
            404 => None,
            _ => panic!("GET {path}: {}", answer.text),
        };
        let possible = self.possible.get(path).map_or(&[None][..], Vec::as_slice);
        let is_right = possible.iter().any(|recipe| recipe.as_deref().map(bytes_of).as_deref() == found);
        let length = found.map(<[u8]>::len);
        assert!(is_right, "{path} has content of {length:?} bytes, but one of {possible:?} was expected");
        Some(())
    }

    pub async fn check_all(&self, endpoint: &Endpoint) {
        for path in self.possible.keys() {
            self.check(endpoint, path).await.expect("an answer");
        }
    }
}
