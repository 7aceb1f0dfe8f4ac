//! Resumable uploads by the IETF draft, in every interop version, with a client that reads and
//! writes the bytes of HTTP/1 itself.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Certificate, Http2Client, Service, content, eventually, expect_problem};

const MIB: usize = 1 << 20;
/// Default part size, in bytes.
const PART: usize = 8 * MIB;

const VERSIONS: [u8; 6] = [3, 4, 5, 6, 7, 8];

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A response, or an interim response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    pub(crate) fn text(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("{name} is missing: {self:?}"))
    }

    pub(crate) fn number(&self, name: &str) -> usize {
        self.text(name).parse().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Whether the header of interop version `version` says that the content is complete.
    pub(crate) fn completes(&self, version: u8) -> Option<bool> {
        let (name, other) = completeness_names(version);
        assert!(!self.headers.contains_key(other), "{self:?}");
        let value = match &**self.headers.get(name)? {
            "?1" => true,
            "?0" => false,
            _ => panic!("{self:?}"),
        };
        Some(value != (version == 3))
    }

    #[track_caller]
    fn expect_problem(&self, status: u16, code: &str, kind: &str) -> Value {
        assert_eq!((self.status, self.text("osproxy-error")), (status, code), "{self:?}");
        assert_eq!(self.text("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["type"], kind);
        assert_eq!(problem["status"], status);
        problem
    }
}

fn completeness_names(version: u8) -> (&'static str, &'static str) {
    let names = ("upload-complete", "upload-incomplete");
    if version == 3 { (names.1, names.0) } else { names }
}

/// The problem type of this name.
fn kind(name: &str) -> String {
    format!("https://iana.org/assignments/http-problem-types#{name}")
}

/// The value of the header `Authorization`.
fn bearer(service: &Service) -> String {
    format!("Bearer {}", service.key().unwrap())
}

/// A client of one interop version, on one connection.
pub(crate) struct Client {
    io: Box<dyn Io>,
    received: Vec<u8>,
    version: u8,
    key: String,
}

impl Client {
    pub(crate) async fn connect(service: &Service, version: u8) -> Self {
        Self::over(TcpStream::connect(service.address).await.unwrap(), service, version)
    }

    fn over(io: impl Io + 'static, service: &Service, version: u8) -> Self {
        Self { io: Box::new(io), received: Vec::new(), version, key: bearer(service) }
    }

    /// The header that says whether the content ends with the body.
    pub(crate) fn completeness(&self, ends_content: bool) -> String {
        let (name, _) = completeness_names(self.version);
        format!("{name}: ?{}\r\n", u8::from(ends_content != (self.version == 3)))
    }

    /// Sends a head. Each line of `fields` must end with CRLF.
    pub(crate) async fn send_head(&mut self, method: &str, url: &str, fields: &str) {
        let head = format!(
            "{method} {url} HTTP/1.1\r\nHost: localhost\r\nUpload-Draft-Interop-Version: {}\r\n{fields}\r\n",
            self.version
        );
        self.send(head.as_bytes()).await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// Sends the head of a creation, whose body has `length` bytes.
    async fn send_creation(&mut self, length: usize, ends_content: bool, fields: &str) {
        let fields = format!(
            "Authorization: {}\r\nContent-Length: {length}\r\n{}{fields}",
            self.key,
            self.completeness(ends_content)
        );
        self.send_head("POST", "/tus", &fields).await;
    }

    /// Appends bytes, and returns the final response.
    pub(crate) async fn append(
        &mut self,
        url: &str,
        offset: usize,
        bytes: &[u8],
        ends_content: bool,
    ) -> Answer {
        self.send_append(url, offset, bytes.len(), ends_content, "").await;
        self.send(bytes).await;
        self.answer().await
    }

    async fn send_append(
        &mut self,
        url: &str,
        offset: usize,
        length: usize,
        ends_content: bool,
        fields: &str,
    ) {
        let fields = format!(
            "Content-Length: {length}\r\nUpload-Offset: {offset}\r\n{}{}{fields}",
            self.completeness(ends_content),
            self.media_type()
        );
        self.send_head("PATCH", url, &fields).await;
    }

    fn media_type(&self) -> &'static str {
        if self.version >= 6 { "Content-Type: application/partial-upload\r\n" } else { "" }
    }

    /// Sends a body in chunks.
    async fn send_chunks<'b>(&mut self, chunks: impl IntoIterator<Item = &'b [u8]>) {
        for chunk in chunks {
            self.send(format!("{:x}\r\n", chunk.len()).as_bytes()).await;
            self.send(chunk).await;
            self.send(b"\r\n").await;
        }
        self.send(b"0\r\n\r\n").await;
    }

    async fn head(&mut self, url: &str) -> Answer {
        self.send_head("HEAD", url, "").await;
        let answer = self.next(true).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_eq!(answer.text("cache-control"), "no-store");
        answer
    }

    pub(crate) async fn offset(&mut self, url: &str) -> usize {
        self.head(url).await.number("upload-offset")
    }

    /// The next response; asserts that it is the interim response of the draft.
    pub(crate) async fn interim(&mut self) -> Answer {
        let answer = self.next(false).await;
        assert_eq!(answer.status, 104, "{answer:?}");
        assert_eq!(answer.number("upload-draft-interop-version"), usize::from(self.version));
        answer
    }

    /// The next response; asserts that it is a final one.
    pub(crate) async fn answer(&mut self) -> Answer {
        let answer = self.next(false).await;
        assert!(answer.status >= 200, "{answer:?}");
        answer
    }

    /// Reads a response. `is_head` tells that it has no body, despite its headers.
    async fn next(&mut self, is_head: bool) -> Answer {
        let end = loop {
            match self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.receive().await,
            }
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let (first, fields) = head.split_once("\r\n").unwrap();
        let status = first.strip_prefix("HTTP/1.1 ").or(first.strip_prefix("HTTP/1.0 ")).unwrap();
        let status = status[..3].parse().unwrap();
        let mut headers = BTreeMap::new();
        for line in fields.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            assert!(headers.insert(name.to_lowercase(), value.to_owned()).is_none(), "{head}");
        }
        let mut answer = Answer { status, headers, body: String::new() };
        if status >= 200 && status != 204 && !is_head {
            let length = answer.number("content-length");
            while self.received.len() < length {
                self.receive().await;
            }
            answer.body = String::from_utf8(self.received.drain(..length).collect()).unwrap();
        }
        answer
    }

    async fn receive(&mut self) {
        let mut bytes = [0; 4096];
        let count = self.io.read(&mut bytes).await.unwrap();
        assert!(count > 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.received));
        self.received.extend(&bytes[..count]);
    }

    /// Asserts that nothing has arrived after the latest response.
    fn assert_nothing_left(&self) {
        assert!(self.received.is_empty(), "{:?}", String::from_utf8_lossy(&self.received));
    }
}

/// Creates an upload without content, and returns its URL.
async fn create(service: &Service, version: u8, fields: &str) -> String {
    let mut client = Client::connect(service, version).await;
    client.send_creation(0, false, fields).await;
    let mut answer = client.next(false).await;
    if answer.status == 104 {
        answer = client.answer().await;
    }
    assert_eq!((answer.status, answer.completes(version)), (201, Some(false)), "{answer:?}");
    assert_eq!(answer.number("upload-offset"), 0);
    answer.text("location").to_owned()
}

fn uid(url: &str) -> &str {
    url.strip_prefix("/tus/").unwrap().split('?').next().unwrap()
}

/// Waits until this many bytes are recorded, without a request that would end the running one.
async fn wait_for_bytes(service: &Service, url: &str, count: usize) {
    let received = format!("SELECT received FROM files WHERE uid = {}", uid(url));
    eventually("the bytes are recorded", async || {
        (service.sql(&received).await == [count.to_string()]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn content_arrives_in_one_request() {
    let mut service = Service::start().await;
    for version in VERSIONS {
        let bytes = content(version.into(), 300_000);
        let mut client = Client::connect(&service, version).await;
        let name = "Content-Disposition: inline; filename=\"x\"; filename*=UTF-8''%E2%82%AC%20x.txt\r\n";
        let fields = format!("Content-Type: text/plain\r\n{name}");
        client.send_creation(bytes.len(), true, &fields).await;
        // The URL is known before the body is sent.
        let interim = client.interim().await;
        let url = interim.text("location").to_owned();
        client.assert_nothing_left();
        client.send(&bytes).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.completes(version)), (201, Some(true)), "{answer:?}");
        assert_eq!(answer.text("location"), url);
        assert_eq!(answer.number("upload-offset"), bytes.len());
        assert_eq!(answer.number("upload-draft-interop-version"), usize::from(version));
        assert!(!answer.headers.contains_key("tus-resumable"));
        let status = answer.json();
        assert_eq!((&status["uid"], &status["state"]), (&json!(uid(&url)), &json!("stored")));
        assert_eq!(answer.text("osproxy-uid"), uid(&url));
        for answer in [&interim, &answer] {
            assert_eq!(answer.headers.contains_key("upload-limit"), version >= 6, "{answer:?}");
        }
        assert!(service.read(uid(&url)).await == bytes);
        let file = service.describe(uid(&url)).await;
        assert_eq!((&*file.name, file.content_type.as_deref()), ("€ x.txt", Some("text/plain")));
        // The connection goes on.
        let upload = client.head(&url).await;
        assert_eq!(upload.completes(version), Some(true));
        assert_eq!(upload.number("upload-offset"), bytes.len());
        assert_eq!(upload.number("upload-length"), bytes.len());
        client.send_creation(5, true, "").await;
        client.interim().await;
        client.send(b"hello").await;
        assert_eq!(client.answer().await.status, 201);
        client.assert_nothing_left();
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn content_of_every_size_arrives_in_one_request() {
    let mut service = Service::start_with(&[("LOCAL__PACK_BELOW", "64KiB")]).await;
    for (seed, size) in (20..).zip([0, 1, 65_536, 65_537, PART, PART + 1, 2 * PART]) {
        let bytes = content(seed, size);
        for is_chunked in [false, true] {
            let mut client = Client::connect(&service, 8).await;
            if is_chunked {
                let fields = format!(
                    "Authorization: {}\r\nTransfer-Encoding: chunked\r\nUpload-Complete: ?1\r\n",
                    client.key
                );
                client.send_head("POST", "/tus/", &fields).await;
                client.send_chunks(bytes.chunks(1_000_000)).await;
            } else {
                client.send_creation(size, true, &format!("Upload-Length: {size}\r\n")).await;
                client.send(&bytes).await;
            }
            let url = client.interim().await.text("location").to_owned();
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.completes(8)), (201, Some(true)), "{size}: {answer:?}");
            assert_eq!(answer.number("upload-offset"), size);
            assert!(service.read(uid(&url)).await == bytes, "{size} bytes");
            assert_eq!(client.head(&url).await.number("upload-length"), size);
        }
    }
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_creation_that_broke_off_is_resumed() {
    let mut service = Service::start().await;
    for version in VERSIONS {
        let bytes = content(40 + u64::from(version), PART + MIB);
        let mut client = Client::connect(&service, version).await;
        client.send_creation(bytes.len(), true, "").await;
        let url = client.interim().await.text("location").to_owned();
        let cut = PART - 100_000 + usize::from(version) * 30_000;
        client.send(&bytes[..cut]).await;
        drop(client);
        wait_for_bytes(&service, &url, cut).await;
        let mut client = Client::connect(&service, version).await;
        let upload = client.head(&url).await;
        assert_eq!((upload.number("upload-offset"), upload.completes(version)), (cut, Some(false)));
        assert_eq!(upload.number("upload-length"), bytes.len());
        // An append that breaks off is resumed too.
        client.send_append(&url, cut, bytes.len() - cut, true, "").await;
        client.send(&bytes[cut..cut + 200_000]).await;
        drop(client);
        wait_for_bytes(&service, &url, cut + 200_000).await;
        let mut client = Client::connect(&service, version).await;
        let offset = client.offset(&url).await;
        assert_eq!(offset, cut + 200_000);
        let answer = client.append(&url, offset, &bytes[offset..], true).await;
        let status = if version < 7 { 201 } else { 200 };
        assert_eq!((answer.status, answer.completes(version)), (status, Some(true)), "{answer:?}");
        assert_eq!(answer.json()["state"], "stored");
        assert_eq!(answer.number("upload-offset"), bytes.len());
        assert!(service.read(uid(&url)).await == bytes);
    }
    // Small content is stored in one step, or not at all. But the upload stays.
    let mut client = Client::connect(&service, 8).await;
    client.send_creation(5, true, "").await;
    let url = client.interim().await.text("location").to_owned();
    client.send(b"he").await;
    drop(client);
    // The bytes of the first request may arrive after the client has asked for the offset.
    eventually("the content is complete", async || {
        let mut client = Client::connect(&service, 8).await;
        let offset = client.offset(&url).await;
        let answer = client.append(&url, offset, &b"hello"[offset..], true).await;
        assert!(matches!(answer.status, 200 | 409), "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(service.read(uid(&url)).await, b"hello");
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn content_of_unknown_size_arrives_in_several_requests() {
    let mut service = Service::start().await;
    for (version, last) in VERSIONS.into_iter().zip([0, 1, 100_000, PART, 0, 70_000]) {
        let bytes = content(60 + u64::from(version), PART + 500_000 + last);
        let mut client = Client::connect(&service, version).await;
        let fields = format!(
            "Authorization: {}\r\nTransfer-Encoding: chunked\r\n{}",
            client.key,
            client.completeness(false)
        );
        client.send_head("POST", "/tus", &fields).await;
        let url = client.interim().await.text("location").to_owned();
        client.send_chunks([&bytes[..10], &bytes[10..400_000]]).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.completes(version)), (201, Some(false)), "{answer:?}");
        assert_eq!((answer.number("upload-offset"), answer.text("location")), (400_000, &*url));
        assert!(!client.head(&url).await.headers.contains_key("upload-length"));
        let middle = bytes.len() - last;
        let answer = client.append(&url, 400_000, &bytes[400_000..middle], false).await;
        let status = if version < 7 { 201 } else { 204 };
        assert_eq!((answer.status, answer.completes(version)), (status, Some(false)), "{answer:?}");
        assert_eq!(answer.number("upload-offset"), middle);
        assert!(service.download_link(uid(&url)).await.is_none(), "the content is not complete");
        // The content ends with a body of unknown length, which may be empty.
        let fields = format!(
            "Transfer-Encoding: chunked\r\nUpload-Offset: {middle}\r\n{}{}",
            client.completeness(true),
            client.media_type()
        );
        client.send_head("PATCH", &url, &fields).await;
        client.send_chunks((last > 0).then_some(&bytes[middle..])).await;
        let answer = client.answer().await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        assert_eq!(answer.completes(version), Some(true));
        assert_eq!(answer.number("upload-offset"), bytes.len());
        assert!(service.read(uid(&url)).await == bytes, "{last} bytes at last");
    }
    // An empty request completes the content as well.
    for version in VERSIONS {
        let bytes = content(80 + u64::from(version), 200_000);
        let url = create(&service, version, "").await;
        let mut client = Client::connect(&service, version).await;
        assert_eq!(client.append(&url, 0, &bytes, false).await.completes(version), Some(false));
        let answer = client.append(&url, bytes.len(), b"", true).await;
        assert_eq!(answer.completes(version), Some(true), "{answer:?}");
        assert!(service.read(uid(&url)).await == bytes);
    }
    let url = create(&service, 8, "").await;
    let answer = Client::connect(&service, 8).await.append(&url, 0, b"", true).await;
    assert_eq!((answer.status, answer.completes(8)), (200, Some(true)), "{answer:?}");
    assert_eq!(service.read(uid(&url)).await, b"");
    // An upload can be aborted while its last part is still being cleaned up. The sweep then removes
    // the rest.
    service.kill_and_restart().await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// Earlier versions complete the content unless the header says otherwise.
#[tokio::test]
async fn an_append_of_an_earlier_version_needs_no_completeness() {
    let service = Service::start().await;
    for version in VERSIONS {
        let url = create(&service, version, "").await;
        let mut client = Client::connect(&service, version).await;
        let fields = format!("Content-Length: 5\r\nUpload-Offset: 0\r\n{}", client.media_type());
        client.send_head("PATCH", &url, &fields).await;
        client.send(b"hello").await;
        let answer = client.answer().await;
        if version < 7 {
            assert_eq!((answer.status, answer.completes(version)), (201, Some(true)), "{answer:?}");
            assert_eq!(service.read(uid(&url)).await, b"hello");
        } else {
            answer.expect_problem(400, "invalid_argument", "urn:osproxy:error:invalid_argument");
        }
    }
}

#[tokio::test]
async fn a_wrong_offset_is_answered_with_the_right_one() {
    let service = Service::start().await;
    for version in VERSIONS {
        let url = create(&service, version, "Upload-Length: 10\r\n").await;
        let mut client = Client::connect(&service, version).await;
        assert_eq!(client.append(&url, 0, b"01234", false).await.number("upload-offset"), 5);
        for offset in [0, 4, 6, 10, 999_999_999_999_999] {
            let answer = client.append(&url, offset, b"x", false).await;
            let problem = answer.expect_problem(409, "offset_mismatch", &kind("mismatching-upload-offset"));
            assert_eq!(answer.number("upload-offset"), 5);
            assert_eq!(problem["expected-offset"], 5);
            assert_eq!(problem["provided-offset"], offset);
            assert_eq!(answer.completes(version), (version >= 7).then_some(false));
        }
        assert_eq!(client.offset(&url).await, 5);
        assert!(client.append(&url, 5, b"56789", true).await.status < 300);
        assert_eq!(service.read(uid(&url)).await, b"0123456789");
    }
}

#[tokio::test]
async fn nothing_is_added_to_a_complete_upload() {
    let service = Service::start().await;
    for version in VERSIONS {
        let url = create(&service, version, "").await;
        let mut client = Client::connect(&service, version).await;
        assert_eq!(client.append(&url, 0, b"hello", true).await.completes(version), Some(true));
        // The response may have been lost.
        let answer = client.append(&url, 5, b"", true).await;
        assert_eq!((answer.status < 300, answer.completes(version)), (true, Some(true)), "{answer:?}");
        let answer = client.append(&url, 5, b"x", false).await;
        answer.expect_problem(400, "already_stored", &kind("completed-upload"));
        let answer = client.append(&url, 4, b"x", false).await;
        answer.expect_problem(409, "offset_mismatch", &kind("mismatching-upload-offset"));
        assert_eq!(answer.number("upload-offset"), 5);
        assert_eq!(service.read(uid(&url)).await, b"hello");
    }
    // A body of unknown length adds nothing either.
    let url = create(&service, 8, "").await;
    let mut client = Client::connect(&service, 8).await;
    client.append(&url, 0, b"hello", true).await;
    for (chunks, status) in [(&[][..], 200), (&[&b"x"[..]], 400)] {
        let fields = format!(
            "Transfer-Encoding: chunked\r\nUpload-Offset: 5\r\nUpload-Complete: ?1\r\n{}",
            client.media_type()
        );
        client.send_head("PATCH", &url, &fields).await;
        client.send_chunks(chunks.iter().copied()).await;
        assert_eq!(client.answer().await.status, status);
    }
}

#[tokio::test]
async fn the_size_of_the_content_does_not_change() {
    let mut service = Service::start().await;
    let inconsistent = kind("inconsistent-upload-length");
    for version in VERSIONS {
        let mut client = Client::connect(&service, version).await;
        client.send_creation(5, true, "Upload-Length: 6\r\n").await;
        client.send(b"hello").await;
        client.answer().await.expect_problem(400, "size_mismatch", &inconsistent);
    }
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["0"]);
    for version in VERSIONS {
        let url = create(&service, version, "Upload-Length: 10\r\n").await;
        let mut client = Client::connect(&service, version).await;
        for (fields, length, ends_content) in
            [("Upload-Length: 11\r\n", 1, false), ("", 9, true), ("", 11, true)]
        {
            client.send_append(&url, 0, length, ends_content, fields).await;
            client.send(&b"0123456789a"[..length]).await;
            client.answer().await.expect_problem(400, "size_mismatch", &inconsistent);
            assert_eq!(client.offset(&url).await, 0);
        }
        // Larger than announced, but it does not claim to be all.
        let answer = client.append(&url, 0, b"0123456789a", false).await;
        answer.expect_problem(413, "too_large", "urn:osproxy:error:too_large");
        assert_eq!(client.append(&url, 0, b"0123456789", true).await.completes(version), Some(true));
        assert_eq!(service.read(uid(&url)).await, b"0123456789");
    }
    // A body of unknown length ends too early, within a part. Its bytes stay.
    let bytes = content(90, PART + 1000);
    let url = create(&service, 8, &format!("Upload-Length: {}\r\n", bytes.len())).await;
    let mut client = Client::connect(&service, 8).await;
    let fields = format!(
        "Transfer-Encoding: chunked\r\nUpload-Offset: 0\r\nUpload-Complete: ?1\r\n{}",
        client.media_type()
    );
    client.send_head("PATCH", &url, &fields).await;
    client.send_chunks([&bytes[..100_000]]).await;
    client.answer().await.expect_problem(400, "size_mismatch", &inconsistent);
    assert_eq!(client.offset(&url).await, 100_000);
    let answer = client.append(&url, 100_000, &bytes[100_000..], true).await;
    assert_eq!(answer.completes(8), Some(true), "{answer:?}");
    assert!(service.read(uid(&url)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn content_that_is_too_large_is_refused() {
    let mut service = Service::start_with(&[("UPLOADS__MAX_SIZE", "1000000")]).await;
    for version in VERSIONS {
        let mut client = Client::connect(&service, version).await;
        for (length, ends_content, fields) in
            [(1_000_001, true, ""), (0, false, "Upload-Length: 1000001\r\n")]
        {
            client.send_creation(length, ends_content, fields).await;
            let answer = client.answer().await;
            answer.expect_problem(413, "too_large", "urn:osproxy:error:too_large");
            assert_eq!(answer.text("upload-limit"), "max-size=1000000");
            client = Client::connect(&service, version).await;
        }
    }
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["0"]);
    // A body of unknown length is too large: nothing of it may become the content.
    for (size, fields) in [(1_000_001, ""), (200_001, "Upload-Length: 200000\r\n")] {
        let bytes = content(100, size);
        let url = create(&service, 8, fields).await;
        let mut client = Client::connect(&service, 8).await;
        let fields = format!(
            "Transfer-Encoding: chunked\r\nUpload-Offset: 0\r\nUpload-Complete: ?0\r\n{}",
            client.media_type()
        );
        client.send_head("PATCH", &url, &fields).await;
        client.send_chunks([&*bytes]).await;
        let answer = client.answer().await;
        answer.expect_problem(413, "too_large", "urn:osproxy:error:too_large");
        let mut client = Client::connect(&service, 8).await;
        client.send_head("HEAD", &url, "").await;
        assert_eq!(client.next(true).await.status, 410);
        // The same with the creation.
        let mut client = Client::connect(&service, 8).await;
        let fields =
            format!("Authorization: {}\r\nTransfer-Encoding: chunked\r\nUpload-Complete: ?1\r\n", client.key);
        client.send_head("POST", "/tus", &fields).await;
        let url = client.interim().await.text("location").to_owned();
        client.send_chunks([&*content(100, 1_000_001)]).await;
        client.answer().await.expect_problem(413, "too_large", "urn:osproxy:error:too_large");
        let mut client = Client::connect(&service, 8).await;
        client.send_head("HEAD", &url, "").await;
        assert_eq!(client.next(true).await.status, 410);
    }
    // The limit of a link is lower.
    let wish = json!({"name": "x", "expires_in": 600, "constraints": {"max_size": 100}});
    let url = service.create_upload(&wish).await.links.unwrap().tus;
    for (version, lifetime) in [(6, "expires"), (7, "max-age"), (8, "max-age")] {
        let limits =
            Client::connect(&service, version).await.head(&url).await.text("upload-limit").to_owned();
        let left = limits.strip_prefix(&format!("max-size=100, {lifetime}=")).unwrap();
        assert!((500..=600).contains(&left.parse().unwrap()), "{limits}");
    }
    // An upload can be aborted while its last part is still being cleaned up. The sweep then removes
    // the rest.
    service.kill_and_restart().await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn an_upload_is_cancelled() {
    let service = Service::start().await;
    for version in VERSIONS {
        let url = create(&service, version, "").await;
        let mut client = Client::connect(&service, version).await;
        client.append(&url, 0, b"hello", false).await;
        // Earlier versions forbid these headers here.
        for fields in ["Upload-Offset: 5\r\n".to_owned(), client.completeness(true)] {
            client.send_head("HEAD", &url, &fields).await;
            assert_eq!(client.next(true).await.status, if version < 7 { 400 } else { 204 });
        }
        client.send_head("DELETE", &url, "").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.number("upload-draft-interop-version"), usize::from(version));
        client.send_head("HEAD", &url, "").await;
        let gone = if version < 7 { 404 } else { 410 };
        assert_eq!(client.next(true).await.status, gone);
        let answer = client.append(&url, 5, b"x", false).await;
        answer.expect_problem(gone, "file_gone", "urn:osproxy:error:file_gone");
    }
    eventually("the bytes are removed", async || service.objects().is_empty().then_some(())).await;
}

#[tokio::test]
async fn wrong_requests_store_nothing() {
    let service = Service::start().await;
    let invalid = "urn:osproxy:error:invalid_argument";
    for version in VERSIONS {
        let (name, _) = completeness_names(version);
        for value in ["1", "true", "?2", "?1 ?1", "", "?1,?1"] {
            let mut client = Client::connect(&service, version).await;
            let fields = format!("Authorization: {}\r\nContent-Length: 0\r\n{name}: {value}\r\n", client.key);
            client.send_head("POST", "/tus", &fields).await;
            client.answer().await.expect_problem(400, "invalid_argument", invalid);
        }
        let mut client = Client::connect(&service, version).await;
        client.key = "Bearer osk_0".to_owned();
        client.send_creation(0, true, "").await;
        assert_eq!(client.answer().await.status, 401);
    }
    let mut client = Client::connect(&service, 8).await;
    client.send_creation(5, true, "Content-Type: multipart/form-data; boundary=x\r\n").await;
    client.send(b"hello").await;
    assert_eq!(client.answer().await.status, 415);
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["0"]);
    for version in VERSIONS {
        let url = create(&service, version, "").await;
        for (fields, status) in [
            ("Content-Type: application/partial-upload\r\n", 400),
            ("Content-Type: application/partial-upload\r\nUpload-Offset: -1\r\n", 400),
            ("Content-Type: application/partial-upload\r\nUpload-Offset: 0.0\r\n", 400),
            ("Content-Type: application/partial-upload\r\nUpload-Offset: 0\r\nUpload-Offset: 0\r\n", 400),
            (
                "Content-Type: application/partial-upload\r\nUpload-Offset: 0\r\nContent-Encoding: gzip\r\n",
                415,
            ),
            ("Content-Type: application/octet-stream\r\nUpload-Offset: 0\r\n", 415),
        ] {
            if status == 415 && version < 6 && fields.contains("octet-stream") {
                continue;
            }
            let mut client = Client::connect(&service, version).await;
            let fields = format!("Content-Length: 1\r\n{}{fields}", client.completeness(false));
            client.send_head("PATCH", &url, &fields).await;
            client.send(b"x").await;
            assert_eq!(client.answer().await.status, status, "{fields}");
            assert_eq!(Client::connect(&service, version).await.offset(&url).await, 0);
        }
        let mut client = Client::connect(&service, version).await;
        let forged = url.replace("signature=", "signature=x");
        let answer = client.append(&forged, 0, b"x", false).await;
        answer.expect_problem(403, "invalid_signature", "urn:osproxy:error:invalid_signature");
        // The media type may have parameters.
        if version >= 6 {
            let fields = format!(
                "Content-Length: 1\r\nUpload-Offset: 0\r\nContent-Type: Application/partial-upload; x=y\r\n{}",
                client.completeness(true)
            );
            client.send_head("PATCH", &url, &fields).await;
            client.send(b"x").await;
            assert_eq!(client.answer().await.completes(version), Some(true));
        }
    }
}

#[tokio::test]
async fn an_upload_belongs_to_all_protocols() {
    let mut service = Service::start().await;
    let tus = |method: Method, url: &str| {
        service.client().request(method, service.url(url)).header("tus-resumable", "1.0.0")
    };
    for version in VERSIONS {
        let bytes = content(110 + u64::from(version), 3 * PART);
        let wish = json!({"name": "x.bin", "size": bytes.len(), "expires_in": 600});
        let upload = service.create_upload(&wish).await;
        let url = upload.links.as_ref().unwrap().tus.clone();
        let mut client = Client::connect(&service, version).await;
        assert_eq!(client.append(&url, 0, &bytes[..1000], false).await.number("upload-offset"), 1000);
        let patch = tus(Method::PATCH, &url)
            .header("upload-offset", 1000)
            .header("content-type", "application/offset+octet-stream")
            .body(bytes[1000..PART].to_vec());
        let answer = patch.send().await.unwrap();
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.headers()["tus-resumable"], "1.0.0");
        assert!(!answer.headers().contains_key("upload-complete"));
        assert_eq!(service.v1_put_part(&upload, 2, &bytes[PART..2 * PART]).await.status(), 204);
        assert_eq!(client.offset(&url).await, 2 * PART);
        let answer = client.append(&url, 2 * PART, &bytes[2 * PART..], true).await;
        assert_eq!(answer.completes(version), Some(true), "{answer:?}");
        let answer = tus(Method::HEAD, &url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["upload-offset"].to_str().unwrap(), bytes.len().to_string());
        assert!(service.read(&upload.uid).await == bytes);
    }
    // If all bytes have arrived, the content is complete, although the client has not said so.
    let url = create(&service, 8, "Upload-Length: 5\r\n").await;
    let mut client = Client::connect(&service, 8).await;
    assert_eq!(client.append(&url, 0, b"hello", false).await.completes(8), Some(false));
    assert_eq!(client.head(&url).await.completes(8), Some(true));
    assert_eq!(client.append(&url, 5, b"", true).await.status, 200);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_new_request_ends_the_one_that_stalls() {
    let mut service = Service::start().await;
    let bytes = content(120, 2 * MIB);
    let mut stalled = Client::connect(&service, 8).await;
    stalled.send_creation(bytes.len(), true, "").await;
    let url = stalled.interim().await.text("location").to_owned();
    stalled.send(&bytes[..700_000]).await;
    let mut client = Client::connect(&service, 8).await;
    let ended = tokio::spawn(async move { stalled.answer().await });
    let mut offset = 0;
    eventually("the request is ended", async || {
        offset = client.offset(&url).await;
        ended.is_finished().then_some(())
    })
    .await;
    ended.await.unwrap().expect_problem(400, "superseded", "urn:osproxy:error:superseded");
    assert!(offset <= 700_000);
    let answer = client.append(&url, offset, &bytes[offset..], true).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(service.read(uid(&url)).await == bytes);
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn an_upload_continues_after_crashes() {
    let mut service = Service::start().await;
    let bytes = content(130, 3 * PART);
    let mut client = Client::connect(&service, 8).await;
    client.send_creation(bytes.len(), true, "").await;
    let url = client.interim().await.text("location").to_owned();
    client.send(&bytes[..2 * PART + 100_000]).await;
    eventually("two parts are recorded", async || {
        (service.sql("SELECT count(*) FROM parts WHERE state = 'stored'").await == ["2"]).then_some(())
    })
    .await;
    service.kill_and_restart().await;
    let mut client = Client::connect(&service, 8).await;
    let offset = client.offset(&url).await;
    assert!((2 * PART..=2 * PART + 100_000).contains(&offset), "{offset}");
    assert_eq!(client.append(&url, offset, &bytes[offset..], true).await.status, 200);
    assert!(service.read(uid(&url)).await == bytes);
}

#[tokio::test]
async fn the_content_of_an_upload_of_api_v1_is_resumable() {
    let mut service = Service::start().await;
    for version in VERSIONS {
        let bytes = content(140 + u64::from(version), PART + MIB);
        let wish = json!({"name": "x.bin", "size": bytes.len(), "expires_in": 600});
        let put = async |url: &str, fields: &str| {
            let mut client = Client::connect(&service, version).await;
            let fields = format!("{fields}{}", client.completeness(true));
            client.send_head("PUT", url, &fields).await;
            client
        };
        let length = format!("Content-Length: {}\r\n", bytes.len());
        // At once.
        let upload = service.create_upload(&wish).await;
        let links = upload.links.as_ref().unwrap();
        let mut client = put(&links.content, &length).await;
        assert_eq!(client.interim().await.text("location"), links.tus);
        client.send(&bytes).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.completes(version)), (200, Some(true)), "{answer:?}");
        assert_eq!(answer.json()["state"], "stored");
        assert!(service.read(&upload.uid).await == bytes);
        // Resumed.
        let upload = service.create_upload(&wish).await;
        let mut client = put(&upload.links.as_ref().unwrap().content, &length).await;
        let url = client.interim().await.text("location").to_owned();
        client.send(&bytes[..=PART]).await;
        drop(client);
        wait_for_bytes(&service, &url, PART + 1).await;
        let mut client = Client::connect(&service, version).await;
        assert_eq!(client.offset(&url).await, PART + 1);
        assert_eq!(client.append(&url, PART + 1, &bytes[PART + 1..], true).await.json()["state"], "stored");
        assert!(service.read(&upload.uid).await == bytes);
        // Repeated from the start, by a client that does not know the URL.
        let upload = service.create_upload(&wish).await;
        let content_url = &upload.links.as_ref().unwrap().content;
        let mut client = put(content_url, &length).await;
        let url = client.interim().await.text("location").to_owned();
        client.send(&bytes[..100_000]).await;
        drop(client);
        wait_for_bytes(&service, &url, 100_000).await;
        for _ in 0..2 {
            let mut client = put(content_url, &length).await;
            client.interim().await;
            client.send(&bytes).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.completes(version)), (200, Some(true)), "{answer:?}");
        }
        assert!(service.read(&upload.uid).await == bytes);
        // In several requests, whose first one has a part of the content.
        let upload = service.create_upload(&json!({"name": "y.bin", "expires_in": 600})).await;
        let content_url = &upload.links.as_ref().unwrap().content;
        for (offset, status) in [(0, 201), (1000, 409)] {
            let mut client = Client::connect(&service, version).await;
            let fields = format!("Content-Length: 1000\r\n{}", client.completeness(false));
            client.send_head("PUT", content_url, &fields).await;
            let url = client.interim().await.text("location").to_owned();
            client.send(&bytes[..1000]).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.number("upload-offset"), 1000);
            if offset == 1000 {
                let answer = client.append(&url, 1000, &bytes[1000..2000], true).await;
                assert_eq!(answer.json()["size"], 2000);
            }
        }
        assert!(service.read(&upload.uid).await == bytes[..2000]);
        // Another size than announced.
        let upload = service.create_upload(&wish).await;
        let mut client = put(&upload.links.as_ref().unwrap().content, "Content-Length: 5\r\n").await;
        client.interim().await;
        client.send(b"hello").await;
        let inconsistent = kind("inconsistent-upload-length");
        client.answer().await.expect_problem(400, "size_mismatch", &inconsistent);
    }
    // The sweep at the start removes the bytes that were replaced by content in one request.
    service.kill_and_restart().await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn content_with_digests_or_without_headers_of_the_draft_is_sent_as_before() {
    let mut service = Service::start().await;
    // Digests of the whole content are checked while it arrives in one request, without resumption.
    let wish = json!({"name": "z.bin", "expires_in": 600});
    for (digest, status) in [("md5=:XUFAKrxLKna5cZ2REBfFkg==:", 200), ("md5=:AAAAAAAAAAAAAAAAAAAAAA==:", 422)]
    {
        let upload = service.create_upload(&wish).await;
        let mut client = Client::connect(&service, 8).await;
        let fields = format!("Content-Length: 5\r\nUpload-Complete: ?1\r\nRepr-Digest: {digest}\r\n");
        client.send_head("PUT", &upload.links.as_ref().unwrap().content, &fields).await;
        client.send(b"hello").await;
        assert_eq!(client.answer().await.status, status);
    }
    // Without the headers of the draft, nothing is different.
    let upload = service.create_upload(&wish).await;
    let answer = service.put(&upload.links.as_ref().unwrap().content, b"hello").await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("upload-complete"));
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

/// Only clients of a known version of the draft, over HTTP/1.1, get interim responses.
#[tokio::test]
async fn other_clients_get_no_interim_responses() {
    let mut service = Service::start().await;
    let key = bearer(&service);
    let fields = |fields: &str| {
        format!("Host: localhost\r\nAuthorization: {key}\r\nContent-Length: 5\r\n{fields}\r\nhello")
    };
    let tus = "Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\nContent-Type: application/offset+octet-stream\r\n";
    for (version, headers) in [
        ("1.0", "Upload-Draft-Interop-Version: 8\r\nUpload-Complete: ?1\r\n"),
        ("1.1", "Upload-Complete: ?1\r\n"),
        ("1.1", "Upload-Incomplete: ?0\r\n"),
        ("1.1", "Upload-Draft-Interop-Version: 2\r\nUpload-Complete: ?1\r\n"),
        ("1.1", "Upload-Draft-Interop-Version: 9\r\nUpload-Complete: ?1\r\n"),
        ("1.1", "Upload-Draft-Interop-Version: x\r\nUpload-Complete: ?1\r\n"),
        ("1.1", tus),
        ("1.1", &format!("Upload-Draft-Interop-Version: 8\r\nUpload-Complete: ?1\r\n{tus}")),
    ] {
        let mut client = Client::connect(&service, 8).await;
        client.send(format!("POST /tus HTTP/{version}\r\n{}", fields(headers)).as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.headers.contains_key("tus-resumable"), headers.contains("Tus"));
        assert_eq!(service.read(answer.text("osproxy-uid")).await, b"hello");
    }
    // Neither protocol.
    let mut client = Client::connect(&service, 8).await;
    client.send(format!("POST /tus HTTP/1.1\r\n{}", fields("")).as_bytes()).await;
    assert_eq!(client.answer().await.status, 412);
    // Without an interim response, the client does not know an upload that broke off.
    let mut client = Client::connect(&service, 8).await;
    let broken = fields("Upload-Complete: ?1\r\n").replace("Content-Length: 5", "Content-Length: 6");
    client.send(format!("POST /tus HTTP/1.1\r\n{broken}").as_bytes()).await;
    drop(client);
    let open = "SELECT count(*) FROM files WHERE state IN ('pending', 'receiving')";
    eventually("the upload is aborted", async || (service.sql(open).await == ["0"]).then_some(())).await;
    // Over HTTP/2, uploads are created without content.
    let mut client = Http2Client::connect(service.address).await;
    let request = |method: &str, url: &str| {
        hyper::Request::builder()
            .method(method)
            .uri(format!("http://test{url}"))
            .header("upload-draft-interop-version", "8")
    };
    let creation = request("POST", "/tus").header("authorization", &key).header("upload-complete", "?0");
    let answer = client.send(creation.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 201);
    let url = answer.headers()["location"].to_str().unwrap().to_owned();
    let patch = request("PATCH", &url)
        .header("upload-complete", "?1")
        .header("upload-offset", "0")
        .header("content-type", "application/partial-upload");
    let answer = client.send(patch.body(Full::new(Bytes::from_static(b"hello"))).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["upload-complete"], "?1");
    assert!(answer.into_body().collect().await.unwrap().to_bytes().starts_with(b"{"));
    assert_eq!(service.read(uid(&url)).await, b"hello");
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn interim_responses_are_in_their_order() {
    let service = Service::start().await;
    // The client waits for `100 Continue`.
    let mut client = Client::connect(&service, 8).await;
    client.send_creation(5, true, "Expect: 100-continue\r\n").await;
    let mut statuses = vec![client.next(false).await.status, client.next(false).await.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [100, 104]);
    client.send(b"hello").await;
    assert_eq!(client.answer().await.status, 201);
    // Pipelined requests, of which some have interim responses.
    let mut client = Client::connect(&service, 8).await;
    let mut requests = String::new();
    for content in ["one", "two", "three"] {
        requests += "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let (key, length) = (&client.key, content.len());
        let fields =
            format!("Authorization: {key}\r\nUpload-Draft-Interop-Version: 8\r\nUpload-Complete: ?1\r\n");
        requests.extend(["POST /tus HTTP/1.1\r\nHost: localhost\r\n", &fields]);
        requests.extend([format!("Content-Length: {length}\r\n\r\n"), content.to_owned()]);
    }
    client.send(requests.as_bytes()).await;
    for content in ["one", "two", "three"] {
        let answer = client.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, r#"{"status":"live"}"#));
        let url = client.interim().await.text("location").to_owned();
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text("location")), (201, &*url));
        assert_eq!(service.read(uid(&url)).await, content.as_bytes());
    }
    client.assert_nothing_left();
}

#[tokio::test]
async fn interim_responses_are_sent_over_tls() {
    let (certificate, folder) = (Certificate::new(), tempfile::tempdir().unwrap());
    let files = certificate.write(folder.path()).map(|path| path.to_str().unwrap().to_owned());
    let settings = [("TLS__CERT", &*files[0]), ("TLS__KEY", &*files[1])];
    let service = Service::start_with(&settings).await;
    let address: SocketAddr = service.address;
    let stream = certificate.connect(address, b"http/1.1").await.unwrap();
    let mut client = Client::over(stream, &service, 8);
    client.send_creation(5, true, "").await;
    let url = client.interim().await.text("location").to_owned();
    client.send(b"hello").await;
    assert_eq!(client.answer().await.status, 201);
    assert_eq!(service.read(uid(&url)).await, b"hello");
}

#[tokio::test]
async fn pages_of_other_origins_can_upload() {
    let service = Service::start_with(&[("UPLOADS__MAX_SIZE", "1000000")]).await;
    let upload = service.create_upload(&json!({"name": "x", "expires_in": 600})).await;
    let content_url = upload.links.unwrap().content;
    for url in ["/tus", "/tus/1", &content_url] {
        let options = service.client().request(Method::OPTIONS, service.url(url));
        let answer = options.header("origin", "https://app.example.net").send().await.unwrap();
        assert_eq!(answer.status(), 204, "{url}");
        assert_eq!(answer.headers()["upload-limit"], "max-size=1000000");
    }
    let preflight = service.client().request(Method::OPTIONS, service.url(&content_url));
    let preflight = preflight
        .header("origin", "https://app.example.net")
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "upload-complete,upload-draft-interop-version");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("upload-complete"), "{allowed}");
    for version in [3, 8] {
        let creation = service.client().post(service.url("/tus"));
        let creation = creation
            .header("origin", "https://app.example.net")
            .header("upload-draft-interop-version", u16::from(version))
            .header(completeness_names(version).0, "?0");
        let answer = creation.send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
        for name in ["upload-complete", "upload-incomplete", "upload-limit", "upload-draft-interop-version"] {
            assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{exposed}");
        }
    }
}

/// A link is enough for one upload only, as in the other protocols.
#[tokio::test]
async fn other_tenants_do_not_see_an_upload() {
    let service = Service::start().await;
    let url = create(&service, 8, "").await;
    let plain = format!("/tus/{}", uid(&url));
    let other = service.with_key(&service.create_key(&["--tenant", "other"]).await);
    for method in [Method::HEAD, Method::DELETE] {
        let request = other.client().request(method, other.url(&plain));
        let answer = request.header("upload-draft-interop-version", "8").send().await.unwrap();
        assert_eq!(answer.status(), 404);
    }
    let request = service.without_key().client().patch(service.url(&plain));
    let request = request.header("upload-complete", "?1").header("upload-offset", "0");
    let answer = request.header("content-type", "application/partial-upload").send().await.unwrap();
    expect_problem(answer, 401, "unauthenticated").await;
}
