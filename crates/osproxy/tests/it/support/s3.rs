//! Requests of the S3 API with Signature Version 4, made by hand so that a test can change any part
//! of them.

use std::{
    fmt::Write,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{RawConnection, Service};

/// A key of the S3 API, as printed by `osproxy s3-key create --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct S3Key {
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl S3Key {
    /// Creates a key by `osproxy s3-key create` with these options.
    pub async fn create(service: &Service, options: &[&str]) -> Self {
        let (code, said) = service.cli(&[&["s3-key", "create", "--json"], options].concat()).await;
        assert_eq!(code, 0, "{said}");
        serde_json::from_str(&said).expect(&said)
    }
}

/// A request before it is signed.
#[derive(Clone)]
pub struct S3Request {
    pub method: &'static str,
    /// Percent-encoded as in a canonical request.
    pub path: String,
    /// Sorted, and percent-encoded as in a canonical request.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What the clock of the client shows.
    pub time: SystemTime,
    pub region: &'static str,
    pub service: &'static str,
}

impl S3Request {
    pub fn get(address: SocketAddr, path: &str) -> Self {
        Self {
            method: "GET",
            path: path.to_owned(),
            query: String::new(),
            headers: vec![("host".to_owned(), address.to_string())],
            body: Vec::new(),
            time: SystemTime::now(),
            region: "us-east-1",
            service: "s3",
        }
    }

    /// Sets a header, which is signed.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Changes the clock of the client.
    pub fn ahead(mut self, seconds: i64) -> Self {
        let offset = Duration::from_secs(seconds.unsigned_abs());
        self.time = if seconds < 0 { self.time - offset } else { self.time + offset };
        self
    }

    fn date(&self) -> String {
        let date = time::OffsetDateTime::from(self.time);
        let (hour, minute, second) = date.to_hms();
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        format!("{year}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }

    fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", &self.date()[..8], self.region, self.service)
    }

    /// Returns the names of the headers, and the signature of the request.
    fn signature(&self, key: &S3Key, query: &str, digest: &str) -> (String, String) {
        let mut headers = self.headers.clone();
        headers.sort();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut canonical = format!("{}\n{}\n{query}\n", self.method, self.path);
        for (name, value) in &headers {
            writeln!(canonical, "{name}:{value}").unwrap();
        }
        write!(canonical, "\n{names}\n{digest}").unwrap();
        let hash = hex::encode(Sha256::digest(&canonical));
        let text = format!("AWS4-HMAC-SHA256\n{}\n{}\n{hash}", self.date(), self.scope());
        let hmac = |key: &[u8], text: &str| {
            Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes()
        };
        let mut secret = hmac(format!("AWS4{}", key.secret_access_key).as_bytes(), &self.date()[..8]);
        for part in [self.region, self.service, "aws4_request", &text] {
            secret = hmac(&secret, part);
        }
        (names, hex::encode(secret))
    }

    /// Signs the request in its headers. Returns the head without its last line break, and the
    /// body.
    pub fn sign(&self, key: &S3Key) -> (String, Vec<u8>) {
        // A test may have set another digest.
        let own = self.headers.iter().find(|(name, _)| name == "x-amz-content-sha256");
        let digest = own.map_or_else(|| hex::encode(Sha256::digest(&self.body)), |header| header.1.clone());
        let signed = self.clone().header("x-amz-date", &self.date()).header("x-amz-content-sha256", &digest);
        let (names, signature) = signed.signature(key, &self.query, &digest);
        let query = if self.query.is_empty() { String::new() } else { format!("?{}", self.query) };
        let mut head = format!("{} {}{query} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &signed.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        let credential = format!("{}/{}", key.access_key_id, self.scope());
        write!(
            head,
            "authorization: AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}\r\n"
        )
        .unwrap();
        (head, self.body.clone())
    }

    /// Returns the path and query of a presigned URL.
    pub fn presign(&self, key: &S3Key, expires: u32) -> String {
        let credential = format!("{}/{}", key.access_key_id, self.scope()).replace('/', "%2F");
        let date = self.date();
        let mut names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={date}&X-Amz-Expires={expires}&\
             X-Amz-SignedHeaders={}",
            names.join("%3B")
        );
        let (_, signature) = self.signature(key, &query, "UNSIGNED-PAYLOAD");
        format!("{}?{query}&X-Amz-Signature={signature}", self.path)
    }

    /// Signs and sends the request.
    pub async fn send(&self, address: SocketAddr, key: &S3Key) -> S3Answer {
        let (head, body) = self.sign(key);
        send(address, head.as_bytes(), &body).await
    }

    /// Like [`send`](Self::send). Returns `None` if the connection broke before the end of the
    /// response.
    pub async fn try_send(&self, address: SocketAddr, key: &S3Key) -> Option<S3Answer> {
        let (head, body) = self.sign(key);
        let connection = RawConnection::try_open(address).await?;
        let answer = S3Answer::parse(exchange(connection, head.as_bytes(), &body).await).ok()?;
        answer.is_complete().then_some(answer)
    }
}

/// A response of the S3 API.
#[derive(Clone, Debug)]
pub struct S3Answer {
    pub status: u16,
    pub text: String,
    bytes: Vec<u8>,
}

impl S3Answer {
    /// Returns the bytes if they are not a response.
    fn parse(bytes: Vec<u8>) -> Result<Self, Vec<u8>> {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match text.split(' ').nth(1).and_then(|status| status.parse().ok()) {
            Some(status) => Ok(Self { status, text, bytes }),
            None => Err(bytes),
        }
    }

    /// Whether the head and the body arrived completely.
    fn is_complete(&self) -> bool {
        let length = self.header("content-length").parse().ok();
        let end = self.bytes.windows(4).position(|window| window == b"\r\n\r\n");
        end.is_some_and(|end| length.is_none_or(|length: usize| self.bytes.len() == end + 4 + length))
    }

    /// The status and the error code; the code is empty if there is none.
    pub fn outcome(&self) -> (u16, &str) {
        (self.status, self.element("Code"))
    }

    /// The value of a header; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        let head = self.text.split_once("\r\n\r\n").unwrap_or_default().0;
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).unwrap_or_default().1
    }

    /// The body, which must not be chunked.
    pub fn body(&self) -> &[u8] {
        let end = self.bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a body");
        &self.bytes[end + 4..]
    }

    /// The text of the first element with this name; empty if there is none.
    pub fn element(&self, name: &str) -> &str {
        let (_, rest) = self.text.split_once(&format!("<{name}>")).unwrap_or_default();
        rest.split_once(&format!("</{name}>")).unwrap_or_default().0
    }
}

/// Sends a request whose head lacks the last line break.
pub async fn send(address: SocketAddr, head: &[u8], body: &[u8]) -> S3Answer {
    let bytes = exchange(RawConnection::open(address).await, head, body).await;
    S3Answer::parse(bytes).unwrap_or_else(|bytes| panic!("no response: {}", String::from_utf8_lossy(&bytes)))
}

async fn exchange(mut connection: RawConnection, head: &[u8], body: &[u8]) -> Vec<u8> {
    let end = format!("connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.try_send(&[head, end.as_bytes(), body].concat()).await;
    connection.read_all().await
}
