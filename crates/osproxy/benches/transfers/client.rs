//! A client that costs little: blocking sockets, one buffer per connection, no copies.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use osproxy_api::v0::{
    CreateDownloadLinkRequest, CreateUploadRequest, DownloadLink, Envelope, PREFIX, UploadLinks,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::content::{Aligned, Variant};

/// Small enough to stay in a core's cache, large enough for few system calls.
const BUFFER: usize = 256 * 1024;

/// How long the links hold that the benchmark asks for, in seconds.
const EXPIRE: i64 = 24 * 60 * 60;

const BOUNDARY: &str = "----osproxy-transfers-7d1b0c5e";

/// A keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Aligned,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Aligned::new(BUFFER) })
    }

    pub(crate) fn open_many(address: SocketAddr, count: usize) -> Result<Vec<Self>> {
        (0..count).map(|_| Self::open(address)).collect()
    }

    /// Sends a request and hands the pieces of the answer's body to `take`. Anything but a whole answer with
    /// status 200 is an error. Returns the body's length.
    pub(crate) fn exchange(&mut self, request: &[&[u8]], mut take: impl FnMut(&[u8])) -> Result<u64> {
        for part in request {
            self.stream.write_all(part)?;
        }
        let buffer = self.buffer.bytes_mut();
        let mut filled = 0;
        let (body, length) = loop {
            let free = buffer.get_mut(filled..).unwrap_or_default();
            let count = self.stream.read(free)?;
            ensure!(count > 0, "the connection was closed before there was an answer");
            filled += count;
            let read = buffer.get(..filled).unwrap_or_default();
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                let (head, body) = read.split_at(end + 4);
                break (body, content_length(head)?);
            }
        };
        let mut received = body.len() as u64;
        take(body);
        while received < length {
            let count = self.stream.read(buffer)?;
            ensure!(count > 0, "the connection was closed after {received} of {length} bytes");
            received += count as u64;
            take(buffer.get(..count).unwrap_or_default());
        }
        ensure!(received == length, "more came than the {length} bytes announced");
        Ok(length)
    }

    /// Gets a body of `length` bytes and forgets it.
    pub(crate) fn get(&mut self, request: &[u8], length: u64) -> Result<()> {
        let received = self.exchange(&[request], |_| {})?;
        ensure!(received == length, "{received} bytes came instead of {length}");
        Ok(())
    }

    /// Gets a body and checks that it is `expected`.
    pub(crate) fn verify(&mut self, request: &[u8], expected: &Variant<'_>) -> Result<()> {
        let mut md5 = crate::content::Digester::default();
        self.exchange(&[request], |bytes| md5.update(bytes))?;
        let (md5, expected) = (md5.finish(), expected.md5());
        ensure!(md5 == expected, "the content's md5 is {md5} instead of {expected}");
        Ok(())
    }

    /// Puts the content to a link: as it is, or as the field `file` of a form.
    pub(crate) fn put(&mut self, target: &str, content: &Variant<'_>, form: bool) -> Result<()> {
        let (opening, closing) = if form { form_around() } else { Default::default() };
        let length = opening.len() + content.len() + closing.len();
        let mut first = head("PUT", target, &content_type(form), length);
        first.extend_from_slice(opening.as_bytes());
        // One segment for a small request, not two.
        first.extend_from_slice(content.first());
        let parts = [&first, content.rest(), closing.as_bytes()];
        self.exchange(&parts, |_| {}).map(drop)
    }

    /// Links for one new file.
    pub(crate) fn upload_link(&mut self, path: &str) -> Result<UploadLinks> {
        let links: Vec<_> = self.call(&upload_link_request(path)?)?;
        links.into_iter().next().context("no link came")
    }

    /// One link for each uid, in their order.
    pub(crate) fn download_links(&mut self, uids: &[String]) -> Result<Vec<DownloadLink>> {
        let links: Vec<_> = self.call(&download_link_request(uids)?)?;
        ensure!(links.len() == uids.len(), "{} links came for {} files", links.len(), uids.len());
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
        let link = links.first().context("no link came")?;
        self.verify(&get(&link.url), content)
    }

    fn call<T: DeserializeOwned>(&mut self, request: &[u8]) -> Result<T> {
        let mut body = Vec::new();
        self.exchange(&[request], |bytes| body.extend_from_slice(bytes))?;
        Ok(serde_json::from_slice::<Envelope<T>>(&body)?.data)
    }
}

/// The request for the body behind a path.
pub(crate) fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// The request without a body that completes something.
pub(crate) fn put_nothing(target: &str) -> Vec<u8> {
    head("PUT", target, &content_type(false), 0)
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

/// Gives each connection, or whatever has some, a thread and waits for all of them.
pub(crate) fn at_once<T: Send>(
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
    let body = serde_json::to_vec(body)?;
    let mut request = head("POST", &format!("{PREFIX}{path}"), "application/json", body.len());
    request.extend_from_slice(&body);
    Ok(request)
}

fn head(method: &str, target: &str, content_type: &str, length: usize) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n\
         content-length: {length}\r\n\r\n"
    )
    .into_bytes()
}

fn content_type(form: bool) -> String {
    if form {
        format!("multipart/form-data; boundary={BOUNDARY}")
    } else {
        "application/octet-stream".to_owned()
    }
}

/// What stands before and after the content in a form.
fn form_around() -> (String, String) {
    let opening = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"file.bin\"\r\n\
         content-type: application/octet-stream\r\n\r\n"
    );
    (opening, format!("\r\n--{BOUNDARY}--\r\n"))
}

/// The length that the head of an answer announces.
fn content_length(head: &[u8]) -> Result<u64> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("the answer is {status:?}");
    }
    let field = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = field.context("the answer does not announce its length")?;
    Ok(length.trim().parse()?)
}
