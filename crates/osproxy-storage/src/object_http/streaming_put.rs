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

/// Maximum chunks queued for the socket.
const WAITING: usize = 4;

/// Write target.
#[derive(Clone)]
pub(super) enum Target {
    Object,
    Part { upload: String, number: u32 },
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

/// Sends buffered bytes and returns their tag. Sends `Content-MD5`, which the store verifies, where
/// MD5 is cheap or needed anyway.
pub(super) async fn send_whole<V: Vendor>(
    client: &SharedClient<V>,
    key: &Key,
    target: &Target,
    content: Vec<Bytes>,
) -> Result<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let length: usize = content.iter().map(Bytes::len).sum();
    let wants_md5 = length as u64 <= sizes::KEPT || client.checksums(target).needs_md5();
    let chunks = content.clone();
    let hashing = tokio::task::spawn_blocking(move || {
        let (mut crc, mut md5) = (crc_fast::Digest::new(V::CRC.algorithm), wants_md5.then(Md5::new));
        for piece in chunks {
            crc.update(&piece);
            if let Some(md5) = &mut md5 {
                md5.update(&piece);
            }
        }
        SentChecksums { crc: crc.finalize(), md5: md5.map(|md5| md5.finalize().into()) }
    });
    let sent = hashing.await.map_err(|_| HashingFailed.into_error(V::NAME))?;
    let mut put = request(key, target);
    put.body = RequestBody::Chunks(content);
    if let Some(md5) = sent.md5 {
        put.headers.insert(http::HeaderName::from_static("content-md5"), STANDARD.encode(md5));
    }
    let received = send(client, put).await?;
    client.checksums(target).check(&sent, &received, V::NAME)?;
    Ok(received.tag)
}

async fn send<V: Vendor>(client: &SharedClient<V>, put: Request) -> Result<ReceivedChecksums> {
    let answer = client.send(put).await?;
    let received = ReceivedChecksums::of(answer.headers(), V::CRC);
    if received.tag.is_empty() && answer.status() == StatusCode::OK {
        return Err(Error::new(ErrorKind::Other, V::NAME, "write").with_message("response without ETag"));
    }
    Ok(received)
}

/// A PUT request whose body is streamed. Dropping it early breaks the connection: the store has not
/// received the announced length, and stores nothing.
pub(super) struct StreamingPut<V: Vendor> {
    client: SharedClient<V>,
    target: Target,
    chunks: mpsc::Sender<Bytes>,
    remaining: u64,
    crc: crc_fast::Digest,
    md5: Option<BackgroundHasher<Md5>>,
    answer: JoinHandle<Result<ReceivedChecksums>>,
}

/// Where the MD5 of the bytes sent is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Md5Source {
    /// The caller computes it anyway, and passes it to [`StreamingPut::finish`].
    Caller,
    /// [`StreamingPut`] computes it, if the store needs it.
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
            answer: tokio::spawn(async move { send(&sender, put).await }),
        }
    }

    /// Bytes still to send.
    pub(super) fn left(&self) -> u64 {
        self.remaining
    }

    /// Sends the next bytes, not more than [`left`](Self::left).
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
        // The request has ended early: its result has the reason.
        let early = (&mut self.answer).await.map_err(|error| gone::<V>(error.into()))?;
        early?;
        Err(gone::<V>("the store responded before it had received all bytes".into()))
    }

    /// Waits for the response after all bytes were pushed, checks the checksums, and returns the
    /// tag. `md5` is the one computed by the caller, if any.
    pub(super) async fn finish(mut self, md5: Option<[u8; 16]>) -> Result<String> {
        let received = self.answer.await.map_err(|error| gone::<V>(error.into()))??;
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

fn gone<V: Vendor>(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Other, V::NAME, "write").with_source(source).mark_retryable()
}
