use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode};
use reqwest::Body;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Vendor,
    client::{Content, Request, Shared},
    xml,
};
use crate::{Error, ErrorKind, Key, Result};

/// Chunks that may wait for the socket.
const WAITING: usize = 4;

/// Where bytes go.
#[derive(Clone)]
pub(super) enum Target {
    Object,
    Part { upload: String, number: u32 },
}

/// What a store says of bytes that it has taken.
pub(super) struct Taken {
    pub(super) tag: String,
    /// Whether the tag says nothing of the bytes, because the store encrypts them with a key of somebody's.
    pub(super) is_opaque: bool,
}

fn request(key: &Key, target: &Target) -> Request {
    let put = Request::to_object(Method::PUT, key, "write");
    match target {
        Target::Object => put,
        Target::Part { upload, number } => {
            put.query("partNumber", number.to_string()).query("uploadId", upload)
        }
    }
}

/// Sends bytes that are all there.
pub(super) async fn send_whole<V: Vendor>(
    client: &Shared<V>,
    key: &Key,
    target: &Target,
    content: Bytes,
    md5: Option<[u8; 16]>,
) -> Result<Taken> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut put = request(key, target);
    put.body = Content::Whole(content);
    if let Some(md5) = md5 {
        put.headers.insert(http::HeaderName::from_static("content-md5"), STANDARD.encode(md5));
    }
    send(client, put).await
}

async fn send<V: Vendor>(client: &Shared<V>, put: Request) -> Result<Taken> {
    let answer = client.send(put).await?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let tag = header("etag").map(xml::tag).unwrap_or_default();
    let encryption = header("x-amz-server-side-encryption").or(header("x-oss-server-side-encryption"));
    let is_opaque = encryption.is_some_and(|algorithm| algorithm != "AES256")
        || header("x-amz-server-side-encryption-customer-algorithm").is_some()
        || header("x-cos-server-side-encryption-customer-algorithm").is_some()
        || header("x-cos-server-side-encryption").is_some_and(|algorithm| algorithm != "AES256");
    if tag.is_empty() && answer.status() == StatusCode::OK {
        return Err(Error::new(ErrorKind::Other, V::NAME, "write").about("no ETag in the answer"));
    }
    Ok(Taken { tag, is_opaque })
}

/// A request whose body comes as it is pushed. Dropped before the end, it breaks the connection: the store never has a
/// body of the length that was announced, and takes nothing.
pub(super) struct Sending {
    chunks: mpsc::Sender<Bytes>,
    left: u64,
    answer: JoinHandle<Result<Taken>>,
}

impl Sending {
    pub(super) fn start<V: Vendor>(client: &Shared<V>, key: &Key, target: &Target, length: u64) -> Self {
        let (chunks, waiting) = mpsc::channel(WAITING);
        let body = stream::try_unfold((waiting, length), |(mut waiting, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let next: Option<Bytes> = waiting.recv().await;
            let next = next.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let left = left.saturating_sub(next.len() as u64);
            Ok::<_, io::Error>(Some((next, (waiting, left))))
        });
        let mut put = request(key, target);
        put.body = Content::Stream(Body::wrap_stream(body), length);
        let client = client.clone();
        let answer = tokio::spawn(async move { send(&client, put).await });
        Self { chunks, left: length, answer }
    }

    /// Bytes that are still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Sends the next bytes, not more than are [`left`](Self::left).
    pub(super) async fn push<V: Vendor>(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.left -= bytes.len() as u64;
        if self.chunks.send(bytes).await.is_ok() {
            return Ok(());
        }
        // Nobody takes them any more: the answer says why.
        let early = (&mut self.answer).await.map_err(|error| gone::<V>(error.into()))?;
        early?;
        Err(gone::<V>("the store answered before it had all bytes".into()))
    }

    /// Waits for the answer, when all bytes were pushed.
    pub(super) async fn finish<V: Vendor>(self) -> Result<Taken> {
        self.answer.await.map_err(|error| gone::<V>(error.into()))?
    }
}

fn gone<V: Vendor>(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let mut error = Error::new(ErrorKind::Other, V::NAME, "write").caused_by(source);
    error.retryable = true;
    error
}
