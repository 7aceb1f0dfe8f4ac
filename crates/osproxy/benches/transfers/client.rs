//! An HTTP client that takes little processor time: blocking sockets, one buffer per connection, no
//! copies.

use std::{
    io::{IoSlice, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use osproxy_api::v0::{
    CreateDownloadLinkRequest, CreateUploadRequest, DownloadLink, Envelope, InstantUploadItem,
    InstantUploadRequest, InstantUploadResult, PREFIX, UploadLinks,
};
use osproxy_api::v1;
use serde::{Serialize, de::DeserializeOwned};

use crate::content::{Aligned, Variant};

/// Size of a buffer, in bytes: small enough to stay in a core's cache, large enough for few system
/// calls.
const BUFFER: usize = 256 * 1024;

/// After this time without progress, a request fails.
const STALLED: Duration = Duration::from_mins(1);

/// Poll interval and timeout of a verification.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_mins(5);

/// Validity of the benchmark's links, in seconds.
const EXPIRE: i64 = 24 * 60 * 60;

const BOUNDARY: &str = "----osproxy-transfers-7d1b0c5e";

/// A simulated network, whose bandwidth is shared by all its connections.
pub(crate) struct Network {
    start: Instant,
    bytes_per_second: f64,
    passed: AtomicU64,
}

impl Network {
    pub(crate) fn new(bytes_per_second: f64) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), bytes_per_second, passed: AtomicU64::new(0) })
    }

    /// Waits until the network has carried `count` more bytes, after all bytes that it carries
    /// already.
    fn wait_for(&self, count: usize) {
        let count = count as u64;
        let passed = self.passed.fetch_add(count, Ordering::Relaxed) + count;
        let due = Duration::from_secs_f64(passed as f64 / self.bytes_per_second);
        thread::sleep(due.saturating_sub(self.start.elapsed()));
    }
}

/// A keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Aligned,
    network: Option<Arc<Network>>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // A peer may answer before it has read the request, and read no more.
        stream.set_read_timeout(Some(STALLED))?;
        stream.set_write_timeout(Some(STALLED))?;
        Ok(Self { stream, buffer: Aligned::new(BUFFER), network: None })
    }

    pub(crate) fn open_many(address: SocketAddr, count: usize) -> Result<Vec<Self>> {
        (0..count).map(|_| Self::open(address)).collect()
    }

    /// Uses this network from now on; `None` does not limit the bandwidth.
    pub(crate) fn set_network(&mut self, network: Option<Arc<Network>>) {
        self.network = network;
    }

    /// Sends a request and passes the chunks of the body to `take`. Fails unless the answer is
    /// complete and successful. Returns the length of the body.
    pub(crate) fn exchange(&mut self, request: &[&[u8]], take: impl FnMut(&[u8])) -> Result<u64> {
        self.exchange_for(&[200, 201, 204, 206], request, take)
    }

    /// Sends a request that must be rejected with status 409 or 422.
    pub(crate) fn expect_refusal(&mut self, request: &[&[u8]]) -> Result<()> {
        self.exchange_for(&[409, 422], request, |_| {}).map(drop)
    }

    /// Like [`exchange`](Self::exchange), but expects one of the given statuses.
    fn exchange_for(
        &mut self,
        expected: &[u16],
        request: &[&[u8]],
        mut take: impl FnMut(&[u8]),
    ) -> Result<u64> {
        self.send(request)?;
        let buffer = self.buffer.bytes_mut();
        let mut filled = 0;
        let (body, length) = loop {
            let free = buffer.get_mut(filled..).unwrap_or_default();
            let count = self.stream.read(free)?;
            ensure!(count > 0, "the connection was closed before an answer");
            self.network.iter().for_each(|network| network.wait_for(count));
            filled += count;
            let read = buffer.get(..filled).unwrap_or_default();
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                let (head, body) = read.split_at(end + 4);
                let (status, length) = status_and_length(head)?;
                ensure!(expected.contains(&status), "the answer is {status}");
                break (body, length);
            }
        };
        let mut received = body.len() as u64;
        let Some(length) = length else {
            // A short chunked body; the last chunk is empty.
            while !buffer.get(..filled).unwrap_or_default().ends_with(b"0\r\n\r\n") {
                let count = self.stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
                ensure!(count > 0, "the connection was closed within a chunked answer");
                filled += count;
            }
            return Ok(0);
        };
        take(body);
        while received < length {
            let count = self.stream.read(buffer)?;
            ensure!(count > 0, "the connection was closed after {received} of {length} bytes");
            received += count as u64;
            self.network.iter().for_each(|network| network.wait_for(count));
            take(buffer.get(..count).unwrap_or_default());
        }
        ensure!(received == length, "received more than the announced {length} bytes");
        Ok(length)
    }

    /// Like [`exchange`](Self::exchange), and returns the `Location`. The answer must be short.
    pub(crate) fn exchange_for_location(&mut self, request: &[&[u8]]) -> Result<String> {
        self.exchange(request, |_| {})?;
        let answer = self.buffer.bytes();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_default();
        let head = answer.get(..end).unwrap_or_default();
        Ok(field(head, "location").context("the answer has no location")?.to_owned())
    }

    /// Sends a JSON body with further header fields, each with its line end.
    pub(crate) fn post_json<T: DeserializeOwned>(
        &mut self,
        target: &str,
        fields: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.json(&post_json(target, fields, body)?)
    }

    /// Sends the parts of a request, together if possible.
    fn send(&mut self, parts: &[&[u8]]) -> Result<()> {
        if self.network.is_some() {
            for piece in parts.iter().flat_map(|part| part.chunks(BUFFER)) {
                self.stream.write_all(piece)?;
                self.network.iter().for_each(|network| network.wait_for(piece.len()));
            }
            return Ok(());
        }
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        // Removes empty parts: a write of nothing would look like an end.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let count = self.stream.write_vectored(left)?;
            ensure!(count > 0, "the connection was closed within a request");
            IoSlice::advance_slices(&mut left, count);
        }
        Ok(())
    }

    /// Reads a body of `length` bytes and discards it.
    pub(crate) fn get(&mut self, request: &[u8], length: u64) -> Result<()> {
        let received = self.exchange(&[request], |_| {})?;
        ensure!(received == length, "received {received} bytes instead of {length}");
        Ok(())
    }

    /// Reads a body and checks that it is `expected`.
    pub(crate) fn verify(&mut self, request: &[u8], expected: &Variant<'_>) -> Result<()> {
        let mut md5 = crate::content::Digester::default();
        self.exchange(&[request], |bytes| md5.update(bytes))?;
        let (md5, expected) = (md5.finish(), expected.md5());
        ensure!(md5 == expected, "the content's md5 is {md5} instead of {expected}");
        Ok(())
    }

    /// Sends content to a link: as the body, or as the field `file` of a form.
    pub(crate) fn put(&mut self, target: &str, content: &Variant<'_>, form: bool) -> Result<()> {
        if !form {
            return self.exchange(&[&put_head(target, content), content.rest()], |_| {}).map(drop);
        }
        let (opening, closing) = form_framing();
        let length = opening.len() + content.len() + closing.len();
        let mut first = head("PUT", target, &content_type(true), length);
        first.extend_from_slice(opening.as_bytes());
        first.extend_from_slice(content.first());
        let parts = [&first, content.rest(), closing.as_bytes()];
        self.exchange(&parts, |_| {}).map(drop)
    }

    /// Creates the upload links for one new file.
    pub(crate) fn upload_link(&mut self, path: &str) -> Result<UploadLinks> {
        let links: Vec<_> = self.call(&upload_link_request(path)?)?;
        links.into_iter().next().context("the answer has no link")
    }

    /// Creates a link for each uid, in order.
    pub(crate) fn download_links(&mut self, uids: &[String]) -> Result<Vec<DownloadLink>> {
        let links: Vec<_> = self.call(&download_link_request(uids)?)?;
        ensure!(links.len() == uids.len(), "received {} links for {} files", links.len(), uids.len());
        Ok(links)
    }

    /// Stores a new file, and returns its uid.
    pub(crate) fn store(&mut self, content: &Variant<'_>) -> Result<String> {
        let link = self.upload_link("file.bin")?;
        self.put(&link.url.single, content, false)?;
        Ok(link.uid)
    }

    /// Checks that the file of this uid has the content.
    pub(crate) fn verify_stored(&mut self, uid: &str, content: &Variant<'_>) -> Result<()> {
        let links = self.download_links(&[uid.to_owned()])?;
        let link = links.first().context("the answer has no link")?;
        self.verify(&get(&link.url), content)
    }

    /// Whether instant upload finds content with this md5. That is the case only after the service
    /// has verified the content. Instant upload then creates a file.
    pub(crate) fn is_verified(&mut self, md5: &str) -> Result<bool> {
        let item = InstantUploadItem { md5: md5.to_owned(), path: "file.bin".to_owned() };
        let results: Vec<InstantUploadResult> =
            self.call(&post("/resume", &InstantUploadRequest { data: vec![item] })?)?;
        Ok(results.iter().any(|result| !result.uid.is_empty()))
    }

    /// Waits until [`is_verified`](Self::is_verified).
    pub(crate) fn wait_until_verified(&mut self, md5: &str) -> Result<()> {
        let start = Instant::now();
        while !self.is_verified(md5)? {
            ensure!(start.elapsed() < PATIENCE, "timed out waiting for the verification of {md5}");
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Creates an upload of `size` bytes over API v1, in parts of `part_size` bytes.
    pub(crate) fn create_upload(
        &mut self,
        size: usize,
        part_size: usize,
    ) -> Result<(String, v1::UploadLinks)> {
        let (size, part_size) = (Some(size as u64), Some(part_size as u64));
        let wish = v1::CreateUploadRequest { size, part_size, ..upload_request() };
        let created: v1::CreatedUpload = self.json(&post_v1("/uploads", &wish)?)?;
        Ok((created.uid, created.links.context("the answer has no links")?))
    }

    /// Creates a link of API v1 for each uid, in order.
    pub(crate) fn v1_links(&mut self, uids: &[String]) -> Result<Vec<String>> {
        let link = |uid: &String| Ok(self.json::<v1::CreatedLink>(&v1_link_request(uid)?)?.url);
        uids.iter().map(link).collect()
    }

    /// Deletes a file, so that the disk does not fill up.
    pub(crate) fn delete(&mut self, uid: &str) -> Result<()> {
        self.exchange(
            &[&head("DELETE", &format!("{}/files/{uid}", v1::PREFIX), &content_type(false), 0)],
            |_| {},
        )?;
        Ok(())
    }

    /// Sends a request and returns the body of the answer, which must be short text.
    pub(crate) fn text(&mut self, request: &[&[u8]]) -> Result<String> {
        let mut body = Vec::new();
        self.exchange(request, |bytes| body.extend_from_slice(bytes))?;
        Ok(String::from_utf8(body)?)
    }

    fn call<T: DeserializeOwned>(&mut self, request: &[u8]) -> Result<T> {
        Ok(self.json::<Envelope<T>>(request)?.data)
    }

    fn json<T: DeserializeOwned>(&mut self, request: &[u8]) -> Result<T> {
        Ok(serde_json::from_str(&self.text(&[request])?)?)
    }
}

/// A GET request for a path.
pub(crate) fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// The head of a PUT request with the first bytes of the content, so that both are sent in one
/// write.
pub(crate) fn put_head(target: &str, content: &Variant<'_>) -> Vec<u8> {
    let mut head = head("PUT", target, &content_type(false), content.len());
    head.extend_from_slice(content.first());
    head
}

/// A PUT request without a body.
pub(crate) fn put_nothing(target: &str) -> Vec<u8> {
    head("PUT", target, &content_type(false), 0)
}

/// A POST request without a body.
pub(crate) fn post_nothing(target: &str) -> Vec<u8> {
    head("POST", target, &content_type(false), 0)
}

pub(crate) fn ping() -> Vec<u8> {
    get(&format!("{PREFIX}/ping"))
}

pub(crate) fn upload_link_request(path: &str) -> Result<Vec<u8>> {
    post("/link/upload", &CreateUploadRequest { file_path: vec![path.to_owned()], expire: EXPIRE })
}

pub(crate) fn download_link_request(uids: &[String]) -> Result<Vec<u8>> {
    post("/link/download", &CreateDownloadLinkRequest { uid: uids.to_vec(), expire: EXPIRE })
}

pub(crate) fn v1_upload_request() -> Result<Vec<u8>> {
    post_v1("/uploads", &upload_request())
}

pub(crate) fn v1_link_request(uid: &str) -> Result<Vec<u8>> {
    let wanted = v1::CreateLinkRequest {
        expires_in: EXPIRE,
        disposition: v1::Disposition::Inline,
        filename: None,
        networks: Vec::new(),
        max_uses: None,
    };
    post_v1(&format!("/files/{uid}/links"), &wanted)
}

fn upload_request() -> v1::CreateUploadRequest {
    v1::CreateUploadRequest { name: "file.bin".to_owned(), expires_in: EXPIRE, ..Default::default() }
}

/// Runs work on each connection in its own thread, and waits for all of them.
pub(crate) fn run_in_threads<T: Send>(
    connections: &mut [T],
    work: impl Fn(usize, &mut T) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = connections
            .iter_mut()
            .enumerate()
            .map(|(number, connection)| scope.spawn(move || work(number, connection)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?)
    })
}

fn post(path: &str, body: &impl Serialize) -> Result<Vec<u8>> {
    post_json(&format!("{PREFIX}{path}"), "", body)
}

fn post_v1(path: &str, body: &impl Serialize) -> Result<Vec<u8>> {
    post_json(&format!("{}{path}", v1::PREFIX), "", body)
}

fn post_json(target: &str, fields: &str, body: &impl Serialize) -> Result<Vec<u8>> {
    let body = serde_json::to_vec(body)?;
    let fields = format!("content-type: application/json\r\n{fields}");
    let mut request = head("POST", target, &fields, body.len());
    request.extend_from_slice(&body);
    Ok(request)
}

/// The head of a request. `fields` are further lines, each with its end.
pub(crate) fn head(method: &str, target: &str, fields: &str, length: usize) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n{fields}content-length: {length}\r\n\r\n")
        .into_bytes()
}

fn content_type(form: bool) -> String {
    if form {
        format!("content-type: multipart/form-data; boundary={BOUNDARY}\r\n")
    } else {
        "content-type: application/octet-stream\r\n".to_owned()
    }
}

/// The text of a form before and after the content.
fn form_framing() -> (String, String) {
    let opening = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"file.bin\"\r\n\
         content-type: application/octet-stream\r\n\r\n"
    );
    (opening, format!("\r\n--{BOUNDARY}--\r\n"))
}

/// The status of an answer and the length of its body; `None` if the body is chunked.
pub(crate) fn status_and_length(head: &[u8]) -> Result<(u16, Option<u64>)> {
    let status = std::str::from_utf8(head)?.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.context("the answer has no status")?;
    if status == 204 {
        // An answer with this status has no body and declares no length.
        return Ok((status, Some(0)));
    }
    if field(head, "transfer-encoding").is_some() {
        return Ok((status, None));
    }
    let length = field(head, "content-length").context("the answer declares no length")?;
    Ok((status, Some(length.parse()?)))
}

/// A field of an answer's head.
pub(crate) fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let lines = std::str::from_utf8(head).ok()?.split("\r\n").skip(1);
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
