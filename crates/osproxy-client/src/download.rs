use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt, stream};
use osproxy_api::{
    ErrorCode,
    v1::{self, CreateLinkRequest, Disposition},
};
use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, RANGE},
};
use serde::{Deserialize, Serialize};

use crate::{Client, Error, ErrorKind, Progress, Result, progress::Meter, source::blocking};

/// Bytes of one range request.
const RANGE_SIZE: u64 = 8 << 20;

/// Bytes that are written to a file at a time.
const BLOCK: usize = 256 << 10;

/// Lifetime of the links that the client creates for itself, in seconds. It creates new ones when
/// they expire.
const LINK_LIFETIME: i64 = 3600;

/// How long a download waits for another one of the same process that was just cancelled.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A download that is being prepared.
///
/// A transfer that breaks continues at the byte where it broke. The content is compared with the
/// BLAKE3 that the server computed.
#[must_use = "a download does nothing before `to_path`, `bytes` or `stream`"]
pub struct Download {
    client: Client,
    uid: String,
    parallel: usize,
    meter: Meter,
}

/// A file that was downloaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Downloaded {
    /// The file.
    pub file: v1::File,
    /// BLAKE3 of the bytes that were received, in hexadecimal.
    pub blake3: String,
    /// Whether the server knew the BLAKE3, so that it was compared. The server does not know it for
    /// some files that were sent in parts of any size, until a task has read them.
    pub is_verified: bool,
}

impl Client {
    /// Prepares a download of the file with this uid. The API key needs the scope `read`.
    pub fn download(&self, uid: impl Into<String>) -> Download {
        Download { client: self.clone(), uid: uid.into(), parallel: 4, meter: Meter::default() }
    }
}

impl Download {
    /// Maximum number of ranges that [`to_path`](Self::to_path) receives at the same time. Default:
    /// 4.
    pub fn parallel(mut self, ranges: usize) -> Self {
        self.parallel = ranges.max(1);
        self
    }

    /// Calls this function whenever bytes were received. It must not block.
    pub fn progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.meter.callback = Some(Arc::new(callback));
        self
    }

    /// Saves the file at this path, and replaces a file that is there.
    ///
    /// The bytes are written to a hidden file beside `path`, which gets the name `path` when it is
    /// complete, verified and durable. If the download is cancelled or fails, the next one to the
    /// same path continues it, also in another process. Fails if another download to the path runs.
    pub async fn to_path(self, path: impl AsRef<Path>) -> Result<Downloaded> {
        let path = path.as_ref();
        let transfer = self.start().await?;
        let partial = Partial::open(path, &transfer.file, transfer.size).await?;
        let received = partial.received();
        let meter = &transfer.meter;
        meter.add(received.iter().map(|range| range.end - range.start).sum::<u64>());
        let missing = ranges(transfer.size).filter(|range| !received.contains(range)).map(Ok);
        let (transfer_ref, partial_ref) = (&transfer, &partial);
        stream::iter(missing)
            .try_for_each_concurrent(self.parallel, move |range| async move {
                transfer_ref.save(range.clone(), partial_ref).await?;
                partial_ref.record(range).await
            })
            .await?;
        let blake3 = partial.hash(transfer.size).await?;
        if let Err(error) = transfer.verify(blake3) {
            partial.remove().await;
            return Err(error);
        }
        partial.publish(path).await?;
        Ok(transfer.downloaded(blake3))
    }

    /// Returns the content. Fails with [`ErrorKind::InvalidInput`] if it has more than `limit`
    /// bytes.
    pub async fn bytes(self, limit: usize) -> Result<Bytes> {
        let transfer = self.start().await?;
        let size = usize::try_from(transfer.size).ok().filter(|size| *size <= limit);
        let size = size.ok_or_else(|| Error::invalid(format!("the file has more than {limit} bytes")))?;
        let mut content = BytesMut::with_capacity(size);
        let mut blocks = std::pin::pin!(transfer.stream());
        while let Some(block) = blocks.try_next().await? {
            content.extend_from_slice(&block);
        }
        Ok(content.freeze())
    }

    /// Returns the file, and its content as a stream. The stream fails at its end if the content
    /// does not match its digest, so do not rely on the content before the stream has ended.
    pub async fn stream(self) -> Result<(v1::File, impl Stream<Item = Result<Bytes>> + Send + use<>)> {
        let transfer = self.start().await?;
        Ok((transfer.file.clone(), transfer.stream()))
    }

    async fn start(&self) -> Result<Transfer> {
        let file = self.client.file(&self.uid).await?;
        let link = new_link(&self.client, &self.uid).await?;
        let size = file.size.ok_or_else(|| Error::not_osproxy(200, "the server did not return the size"))?;
        let meter = Meter { total: Some(size), ..self.meter.clone() };
        Ok(Transfer { client: self.client.clone(), file, size, link: Mutex::new(link), meter })
    }
}

async fn new_link(client: &Client, uid: &str) -> Result<String> {
    let request = CreateLinkRequest {
        expires_in: LINK_LIFETIME,
        disposition: Disposition::Attachment,
        filename: None,
        networks: Vec::new(),
        max_uses: None,
    };
    Ok(client.create_link(uid, &request).await?.url)
}

fn ranges(size: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(RANGE_SIZE)).map(move |number| {
        let start = number * RANGE_SIZE;
        start..size.min(start + RANGE_SIZE)
    })
}

/// A stored file that is being received.
struct Transfer {
    client: Client,
    file: v1::File,
    size: u64,
    link: Mutex<String>,
    meter: Meter,
}

/// A stream of the content: where it is, and the response that it reads.
struct Position {
    transfer: Transfer,
    offset: u64,
    response: Option<Response>,
    hasher: Option<blake3::Hasher>,
}

impl Transfer {
    /// Requests a range.
    async fn request(&self, range: &Range<u64>) -> Result<Response> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bytes = format!("bytes {}-{}/{}", range.start, range.end - 1, self.size);
        let request = self.client.request(&self.client.call_link(Method::GET, &link)?);
        let request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        let answer = tokio::time::timeout(self.client.idle_timeout(), self.client.once(request)).await;
        let response = answer.map_err(|_| crate::client::stalled())??;
        let is_range = response.status() == StatusCode::PARTIAL_CONTENT
            && response.headers().get(CONTENT_RANGE).is_some_and(|value| value == bytes.as_str());
        if is_range {
            return Ok(response);
        }
        let status = response.status().as_u16();
        Err(Error::not_osproxy(status, "the server did not answer with the range that was requested"))
    }

    /// Waits before a range is requested again.
    async fn pause(&self, backoff: &mut crate::retry::Backoff<'_>, error: Error) -> Result<()> {
        if error.code() == Some(ErrorCode::LinkExpired) {
            backoff.pause_always(error).await?;
            let link = new_link(&self.client, &self.file.uid).await?;
            *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
            return Ok(());
        }
        backoff.pause(error).await
    }

    /// Receives a range, and writes it to the file.
    async fn save(&self, range: Range<u64>, partial: &Partial) -> Result<()> {
        let Range { mut start, end } = range;
        let mut backoff = self.client.backoff();
        while start < end {
            let begin = start;
            if let Err(error) = self.save_once(&mut start, end, partial).await {
                if start > begin {
                    backoff.reset();
                }
                self.pause(&mut backoff, error).await?;
            }
        }
        Ok(())
    }

    /// Receives bytes from `start` to `end`, and moves `start` behind those that are written.
    async fn save_once(&self, start: &mut u64, end: u64, partial: &Partial) -> Result<()> {
        let mut response = self.request(&(*start..end)).await?;
        let mut block = BytesMut::with_capacity(BLOCK);
        loop {
            let chunk = self.client.next_chunk(&mut response).await;
            // What arrived before the connection broke need not be sent again.
            let is_last = !matches!(&chunk, Ok(Some(_)));
            if let Ok(Some(chunk)) = &chunk {
                block.extend_from_slice(chunk);
            }
            if block.len() >= BLOCK || (is_last && !block.is_empty()) {
                let length = block.len() as u64;
                if length > end - *start {
                    return Err(too_long());
                }
                partial.write(*start, block.split().freeze()).await?;
                *start += length;
                self.meter.add(length);
            }
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) if *start < end => return Err(too_short()),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The content from the beginning.
    fn stream(self) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        let hasher = Some(blake3::Hasher::new());
        let position = Position { transfer: self, offset: 0, response: None, hasher };
        stream::try_unfold(position, async |mut position| {
            Ok(position.next().await?.map(|block| (block, position)))
        })
    }

    fn verify(&self, blake3: [u8; 32]) -> Result<()> {
        let computed = hex::encode(blake3);
        if self.file.blake3.as_ref().is_none_or(|expected| *expected == computed) {
            return Ok(());
        }
        let message = "the content that was received does not have the BLAKE3 of the file";
        Err(Error::new(ErrorKind::DigestMismatch, message))
    }

    fn downloaded(self, blake3: [u8; 32]) -> Downloaded {
        let is_verified = self.file.blake3.is_some();
        Downloaded { file: self.file, blake3: hex::encode(blake3), is_verified }
    }
}

fn too_long() -> Error {
    Error::not_osproxy(206, "the response is longer than the range that was requested")
}

fn too_short() -> Error {
    Error::new(ErrorKind::Transport, "the response ended early")
}

impl Position {
    /// The next bytes; `None` at the end of verified content.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let size = self.transfer.size;
        // Only a copy of the handle: `self` changes while the backoff lives.
        let client = self.transfer.client.clone();
        let mut backoff = client.backoff();
        while self.offset < size {
            let block = match &mut self.response {
                Some(response) => client.next_chunk(response).await,
                None => match self.transfer.request(&(self.offset..size)).await {
                    Ok(response) => {
                        self.response = Some(response);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let error = match block {
                Ok(Some(block)) if block.len() as u64 <= size - self.offset => {
                    self.offset += block.len() as u64;
                    self.transfer.meter.add(block.len() as u64);
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&block);
                    }
                    return Ok(Some(block));
                }
                Ok(Some(_)) => return Err(too_long()),
                Ok(None) => too_short(),
                Err(error) => error,
            };
            self.response = None;
            self.transfer.pause(&mut backoff, error).await?;
        }
        if let Some(hasher) = self.hasher.take() {
            self.transfer.verify(hasher.finalize().into())?;
        }
        Ok(None)
    }
}

/// The hidden file of a download that is not complete, with a record of the ranges that it has.
struct Partial {
    file: Arc<File>,
    path: PathBuf,
    record_path: PathBuf,
    record: tokio::sync::Mutex<Record>,
}

/// What a hidden file has.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    uid: String,
    size: u64,
    received: Vec<Range<u64>>,
}

impl Partial {
    /// Opens or creates the hidden file for a download to `target`.
    async fn open(target: &Path, file: &v1::File, size: u64) -> Result<Self> {
        let context = || format!("cannot write {}", target.display());
        let name = target.file_name().ok_or_else(|| Error::invalid("the path has no file name"))?;
        if tokio::fs::metadata(target).await.is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::new(ErrorKind::Io, format!("{}: it is a directory", context())));
        }
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".osproxy-part");
        let path = target.with_file_name(&hidden);
        hidden.push(".json");
        let record_path = target.with_file_name(&hidden);
        let opened = open_locked(&path).await.map_err(|error| Error::io(context(), error))?;
        let before = tokio::fs::read(&record_path).await.ok();
        let before = before.and_then(|json| serde_json::from_slice::<Record>(&json).ok());
        let fits = |record: &Record| record.uid == file.uid && record.size == size;
        let new = Record { uid: file.uid.clone(), size, received: Vec::new() };
        let is_resumed = before.as_ref().is_some_and(fits);
        let record = before.filter(fits).unwrap_or(new);
        let opened = Arc::new(opened);
        let partial = Self { file: opened.clone(), path, record_path, record: record.into() };
        if !is_resumed {
            // Before the file changes, so that an old record never describes new bytes.
            let _ = tokio::fs::remove_file(&partial.record_path).await;
            let emptied = blocking(move || opened.set_len(0).and_then(|()| opened.set_len(size))).await;
            emptied.map_err(|error| Error::io(context(), error))?;
        }
        Ok(partial)
    }

    fn received(&self) -> Vec<Range<u64>> {
        self.record.try_lock().map(|record| record.received.clone()).unwrap_or_default()
    }

    async fn write(&self, offset: u64, block: Bytes) -> Result<()> {
        let file = self.file.clone();
        let written = blocking(move || write_all_at(&file, &block, offset)).await;
        written.map_err(|error| self.failed(error))
    }

    /// Records that a range is complete.
    async fn record(&self, range: Range<u64>) -> Result<()> {
        let mut record = self.record.lock().await;
        record.received.push(range);
        let json = serde_json::to_vec(&*record).map_err(|error| Error::invalid(error.to_string()))?;
        let (path, lock) = (self.record_path.clone(), self.file.clone());
        // A torn record is no record: it does not parse. The lock is kept until it is written, even
        // if the download is cancelled.
        #[expect(clippy::disallowed_methods, reason = "on a thread that may block")]
        let write = move || std::fs::write(path, json).map(|()| drop(lock));
        blocking(write).await.map_err(|error| self.failed(error))
    }

    async fn hash(&self, size: u64) -> Result<[u8; 32]> {
        let file = self.file.clone();
        let hash = move || {
            let (mut hasher, mut block) = (blake3::Hasher::new(), vec![0; BLOCK]);
            let mut offset = 0;
            while offset < size {
                let read = crate::source::read_at(&file, &mut block, offset)?;
                let bytes = block.get(..read).filter(|bytes| !bytes.is_empty());
                hasher.update(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                offset += read as u64;
            }
            Ok(hasher.finalize().into())
        };
        blocking(hash).await.map_err(|error| self.failed(error))
    }

    /// Makes the file durable, and gives it its final name.
    async fn publish(&self, target: &Path) -> Result<()> {
        let file = self.file.clone();
        let synced = blocking(move || file.sync_all()).await;
        synced.map_err(|error| self.failed(error))?;
        tokio::fs::rename(&self.path, target).await.map_err(|error| self.failed(error))?;
        let _ = tokio::fs::remove_file(&self.record_path).await;
        Ok(())
    }

    async fn remove(&self) {
        let _ = tokio::fs::remove_file(&self.record_path).await;
        let _ = tokio::fs::remove_file(&self.path).await;
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(format!("cannot write {}", self.path.display()), error)
    }
}

/// Opens or creates the hidden file, and locks it, so that two downloads do not write to it.
async fn open_locked(path: &Path) -> io::Result<File> {
    let start = Instant::now();
    loop {
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).await?;
        let file = file.into_std().await;
        match file.try_lock() {
            Ok(()) if is_at(&file, path).await => return Ok(file),
            // It got its final name meanwhile.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "another download to this path runs"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether an open file still has this path.
#[cfg(unix)]
async fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (open, named) = (file.metadata(), tokio::fs::metadata(path).await);
    matches!((open, named), (Ok(open), Ok(named)) if (open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// Windows does not rename a file that is open.
#[cfg(windows)]
async fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn write_all_at(file: &File, block: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, block, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut block: &[u8], mut offset: u64) -> io::Result<()> {
    while !block.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, block, offset)?;
        block = block.get(written..).unwrap_or_default();
        offset += written as u64;
    }
    Ok(())
}
