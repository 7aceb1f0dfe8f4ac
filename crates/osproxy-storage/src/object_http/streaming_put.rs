//! PUT requests for objects and parts, with a buffered or a streamed body.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode};
use md5::{Digest as _, Md5};
use reqwest::Body;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Vendor,
    background_hasher::{BackgroundHasher, HashingFailed},
    checksum::{ReceivedChecksums, SentChecksums},
    client::{Request, RequestBody, SharedClient},
    sizes,
};
use crate::{Error, ErrorKind, Key, Result};

/// Maximum number of chunks queued for the socket.
const QUEUED_CHUNKS: usize = 4;

/// Where the bytes of a request go.
#[derive(Clone)]
pub(super) enum Target {
    Object,
    Part { upload: String, number: u32 },
}

fn put_request(key: &Key, target: &Target) -> Request {
    let put = Request::to_object(Method::PUT, key, "write");
    match target {
        Target::Object => put,
        Target::Part { upload, number } => {
            put.query("partNumber", number.to_string()).query("uploadId", upload)
        }
    }
}

/// Sends buffered bytes and returns the tag from the store. Also sends `Content-MD5`, which the
/// store verifies, if the content is small, or if the store does not always return a CRC.
pub(super) async fn send_whole<V: Vendor>(
    client: &SharedClient<V>,
    key: &Key,
    target: &Target,
    content: Vec<Bytes>,
) -> Result<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let length: usize = content.iter().map(Bytes::len).sum();
    let wants_md5 = length as u64 <= sizes::MAX_BUFFERED || client.checksums(target).needs_md5();
    let chunks = content.clone();
    let hashing = tokio::task::spawn_blocking(move || {
        let (mut crc, mut md5) = (crc_fast::Digest::new(V::CRC.algorithm), wants_md5.then(Md5::new));
        for chunk in chunks {
            crc.update(&chunk);
            if let Some(md5) = &mut md5 {
                md5.update(&chunk);
            }
        }
        SentChecksums { crc: crc.finalize(), md5: md5.map(|md5| md5.finalize().into()) }
    });
    let sent = hashing.await.map_err(|_| HashingFailed.into_error(V::NAME))?;
    let mut put = put_request(key, target);
    put.body = RequestBody::Chunks(content);
    if let Some(md5) = sent.md5 {
        put.headers.insert(http::HeaderName::from_static("content-md5"), STANDARD.encode(md5));
    }
    let received = send(client, put).await?;
    client.checksums(target).check(&sent, &received, V::NAME)?;
    Ok(received.tag)
}

async fn send<V: Vendor>(client: &SharedClient<V>, put: Request) -> Result<ReceivedChecksums> {
    let response = client.send(put).await?;
    let received = ReceivedChecksums::of(response.headers(), V::CRC);
    if received.tag.is_empty() && response.status() == StatusCode::OK {
        return Err(Error::new(ErrorKind::Other, V::NAME, "write").with_message("the response has no ETag"));
    }
    Ok(received)
}

/// A PUT request with a streamed body. Dropping it before all bytes are sent breaks the connection.
/// The store has then received fewer bytes than announced, and stores nothing.
pub(super) struct StreamingPut<V: Vendor> {
    client: SharedClient<V>,
    target: Target,
    chunks: mpsc::Sender<Bytes>,
    remaining: u64,
    crc: crc_fast::Digest,
    md5: Option<BackgroundHasher<Md5>>,
    response: JoinHandle<Result<ReceivedChecksums>>,
}

/// Who computes the MD5 of the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Md5Source {
    /// The caller computes the MD5 anyway, and passes it to [`StreamingPut::finish`].
    Caller,
    /// [`StreamingPut`] computes the MD5, but only if the store does not always return a CRC.
    StreamingPut,
}

impl<V: Vendor> StreamingPut<V> {
    pub(super) fn start(
        client: &SharedClient<V>,
        key: &Key,
        target: &Target,
        length: u64,
        md5: Md5Source,
    ) -> Self {
        let (chunks, queue) = mpsc::channel(QUEUED_CHUNKS);
        let body = stream::try_unfold((queue, length), |(mut queue, remaining)| async move {
            if remaining == 0 {
                return Ok(None);
            }
            let next: Option<Bytes> = queue.recv().await;
            let next = next.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let remaining = remaining.saturating_sub(next.len() as u64);
            Ok::<_, io::Error>(Some((next, (queue, remaining))))
        });
        let mut put = put_request(key, target);
        put.body = RequestBody::Stream(Body::wrap_stream(body), length);
        let computes_md5 = md5 == Md5Source::StreamingPut && client.checksums(target).needs_md5();
        let sender = client.clone();
        Self {
            client: client.clone(),
            target: target.clone(),
            chunks,
            remaining: length,
            crc: crc_fast::Digest::new(V::CRC.algorithm),
            md5: computes_md5.then(|| BackgroundHasher::new(Md5::new())),
            response: tokio::spawn(async move { send(&sender, put).await }),
        }
    }

    /// Number of bytes that are not sent yet.
    pub(super) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Sends the next bytes. The caller must not push more than [`remaining`](Self::remaining)
    /// bytes.
    pub(super) async fn push(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.remaining -= bytes.len() as u64;
        self.crc.update(&bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes.clone()).await.map_err(|failed| failed.into_error(V::NAME))?;
        }
        if self.chunks.send(bytes).await.is_ok() {
            return Ok(());
        }
        // The request ended early. If it failed, return its error.
        let outcome = (&mut self.response).await.map_err(|error| connection_closed::<V>(error.into()))?;
        outcome?;
        Err(connection_closed::<V>("the store responded before it had received all bytes".into()))
    }

    /// Waits for the response, compares the checksums, and returns the tag. Call this after all
    /// bytes were pushed. `md5` is the MD5 that the caller computed, if any.
    pub(super) async fn finish(mut self, md5: Option<[u8; 16]>) -> Result<String> {
        let received = self.response.await.map_err(|error| connection_closed::<V>(error.into()))??;
        let md5 = match &mut self.md5 {
            Some(hashing) => {
                let md5 = hashing.finish().await.map_err(|failed| failed.into_error(V::NAME))?;
                Some(md5.finalize().into())
            }
            None => md5,
        };
        let sent = SentChecksums { crc: self.crc.finalize(), md5 };
        self.client.checksums(&self.target).check(&sent, &received, V::NAME)?;
        Ok(received.tag)
    }
}

fn connection_closed<V: Vendor>(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Other, V::NAME, "write").with_source(source).mark_retryable()
}
