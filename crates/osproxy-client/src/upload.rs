use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use osproxy_api::{
    ErrorCode,
    v1::{
        Challenge, CompleteUploadRequest, CopiedFile, CreateUploadLinksRequest, CreateUploadRequest,
        CreatedState, CreatedUpload, File, IDEMPOTENCY_KEY, ProofRequest, UploadLinks, UploadState,
        UploadStatus,
    },
};
use reqwest::{
    Body, Method, RequestBuilder, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, Serialize};

use crate::{
    Client, Error, ErrorKind, Progress, Result, Source,
    client::{expect_no_content, random_key, stalled},
    digest,
    progress::Meter,
    source::{Content, Kind, RangeDigests},
};

/// Content up to this size is sent in one request, in bytes. Also the default size of the parts of
/// a stream.
const SMALL: u64 = 8 << 20;

/// Smallest part of a stream, in bytes.
const MIN_PART: u64 = 64 << 10;

/// How long an upload can be continued after it was created or resumed, by default.
const LIFETIME: Duration = Duration::from_hours(24);

/// An upload that is being prepared; [`send`](Self::send) sends it.
///
/// Content up to 8 MiB is sent in one request. Larger content is sent in parts, several at a time;
/// a part that fails is sent again alone. The BLAKE3 is computed while the content is read, and the
/// server compares it. A file is read twice, and never held in memory. Of a stream, up to
/// `parallel` + 1 parts are held in memory.
///
/// Dropping the future of `send` cancels the upload. What was sent expires, unless it is
/// [resumed](Self::resume).
#[must_use = "an upload does nothing before `send`"]
pub struct Upload {
    source: Source,
    options: Options,
    on_start: Option<OnStart>,
    resume: Option<ResumableUpload>,
}

type OnStart = Box<dyn FnOnce(&ResumableUpload) + Send>;

struct Options {
    client: Client,
    name: Option<String>,
    content_type: Option<String>,
    metadata: BTreeMap<String, String>,
    part_size: Option<u64>,
    parallel: usize,
    lifetime: Duration,
    deduplicate: bool,
    meter: Meter,
}

/// Identifies an upload, so that it can be continued later or aborted. It can be stored as JSON. It
/// contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumableUpload {
    /// Uid of the file.
    pub uid: String,
    /// Size of the content in bytes.
    pub size: u64,
    /// When the file was changed last before the upload, in nanoseconds since 1970; `None` for
    /// bytes.
    pub modified: Option<u64>,
}

/// A file that was uploaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Uploaded {
    /// Uid of the file.
    pub uid: String,
    /// Size in bytes.
    pub size: u64,
    /// BLAKE3 of the content, in hexadecimal.
    pub blake3: String,
    /// Whether the server had the content already, so that nothing was sent in parts.
    pub was_known: bool,
    /// The file, if it was sent in one request and the API key has the scope `read`.
    pub file: Option<Box<File>>,
}

impl Upload {
    pub(crate) fn new(client: Client, source: Source) -> Self {
        let options = Options {
            client,
            name: None,
            content_type: None,
            metadata: BTreeMap::new(),
            part_size: None,
            parallel: 4,
            lifetime: LIFETIME,
            deduplicate: false,
            meter: Meter::default(),
        };
        Self { source, options, on_start: None, resume: None }
    }

    /// Name of the file. Default: the name of the file that is sent.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// MIME type. By default, the server detects it.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.options.content_type = Some(content_type.into());
        self
    }

    /// Adds an entry to the metadata of the file.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.metadata.insert(key.into(), value.into());
        self
    }

    /// Maximum number of parts that are sent at the same time. Default: 4.
    pub fn parallel(mut self, parts: usize) -> Self {
        self.options.parallel = parts.max(1);
        self
    }

    /// Size of the parts in bytes: a power of two of at least 64 KiB. By default, the server
    /// chooses; for a stream it is 8 MiB. A file has at most 10,000 parts.
    pub fn part_size(mut self, bytes: u64) -> Self {
        self.options.part_size = Some(bytes);
        self
    }

    /// How long the upload can be continued after it was created or resumed. Default: one day. The
    /// setting `links.max_lifetime` of the server limits it.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.options.lifetime = lifetime;
        self
    }

    /// Computes the BLAKE3 of a large file before it is sent. If the server has the content, it is
    /// not sent. Small files are compared in any case.
    pub fn deduplicate(mut self, deduplicate: bool) -> Self {
        self.options.deduplicate = deduplicate;
        self
    }

    /// Calls this function whenever bytes were sent. It must not block.
    pub fn progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.options.meter.callback = Some(Arc::new(callback));
        self
    }

    /// Calls this function when an upload in parts of a file or of bytes was created, and its first
    /// part has not yet been sent. Store what it gets to [resume](Self::resume) the upload later,
    /// even from another process. Without this function, an upload that fails is aborted.
    pub fn on_start(mut self, callback: impl FnOnce(&ResumableUpload) + Send + 'static) -> Self {
        self.on_start = Some(Box::new(callback));
        self
    }

    /// Continues an upload: sends only the parts that the server does not have. The source must be
    /// the same; `name`, `content_type`, `metadata` and `part_size` have no effect.
    pub fn resume(mut self, upload: ResumableUpload) -> Self {
        self.resume = Some(upload);
        self
    }

    /// Sends the content, and returns when the server has stored it durably.
    pub async fn send(self) -> Result<Uploaded> {
        let Self { source, mut options, on_start, resume } = self;
        let content = match source.0 {
            Kind::Stream(stream) if resume.is_none() && !options.deduplicate => {
                return options.send_stream(stream).await;
            }
            Kind::Stream(_) => {
                let message =
                    "a stream cannot be read again, so its upload can neither be resumed nor deduplicated";
                return Err(Error::invalid(message));
            }
            Kind::Bytes(bytes) => Content::Bytes(bytes),
            Kind::File(path) => {
                options.name = options.name.or_else(|| file_name(&path));
                Content::open(&path).await?
            }
        };
        options.meter.total = Some(content.size());
        if let Some(resumable) = resume {
            return options.continue_upload(&content, resumable).await;
        }
        if content.size() <= options.part_size.unwrap_or(SMALL).min(SMALL) {
            return options.send_whole(&content).await;
        }
        options.send_in_parts(&content, on_start).await
    }
}

impl Options {
    /// Sends content in parts, unless the server has it already.
    async fn send_in_parts(&self, content: &Content, on_start: Option<OnStart>) -> Result<Uploaded> {
        let size = content.size();
        let known = if self.deduplicate { Some(content.hash(0..size).await?.blake3) } else { None };
        let created = self.create(Some(size), known).await?;
        if let Some(blake3) = known {
            let is_known = created.state != CreatedState::Pending
                || match &created.challenge {
                    Some(challenge) => self.prove(content, challenge).await?,
                    None => false,
                };
            if is_known {
                return Ok(uploaded(created.uid, size, blake3, true));
            }
        }
        let session = self.session(created.uid, created.links, created.part_size)?;
        let is_resumable = on_start.is_some();
        if let Some(callback) = on_start {
            callback(&session.resumable(content));
        }
        let sent = session.send_file(content, self.parallel, &[]).await;
        session.finish_or_abort(sent, !is_resumable).await
    }

    /// Sends the content in one request, which creates the file.
    async fn send_whole(&self, content: &Content) -> Result<Uploaded> {
        let range = 0..content.size();
        let digests = content.hash(range.clone()).await?;
        let metadata = (!self.metadata.is_empty()).then(|| serde_json::json!(self.metadata));
        let call = self.client.call(Method::POST, "/files").query("name", self.required_name()?);
        let call = call.query_opt("metadata", metadata);
        let key = random_key()?;
        let transfer = Transfer { client: &self.client, content, range, meter: &self.meter };
        let mut backoff = self.client.backoff();
        loop {
            content.check_unchanged().await?;
            let mut request = self.client.request(&call).header(IDEMPOTENCY_KEY, key.clone());
            request = request.header("repr-digest", digest::header("blake3", &digests.blake3));
            if let Some(content_type) = &self.content_type {
                let value = HeaderValue::try_from(content_type.as_str());
                request =
                    request.header(CONTENT_TYPE, value.map_err(|_| Error::invalid("invalid content type"))?);
            }
            let sent = async { self.client.parse::<CopiedFile>(transfer.send(request).await?).await };
            let error = match sent.await {
                Ok(CopiedFile::Known(file)) => {
                    let uid = file.uid.clone();
                    let stored = uploaded(uid, content.size(), digests.blake3, false);
                    return Ok(Uploaded { file: Some(file), ..stored });
                }
                Ok(CopiedFile::Unread(file)) => {
                    return Ok(uploaded(file.uid, content.size(), digests.blake3, false));
                }
                Err(error) => error,
            };
            content.check_unchanged().await?;
            pause_after_damage(&mut backoff, error).await?;
        }
    }

    /// Sends a stream of unknown length.
    async fn send_stream(mut self, stream: BoxStream<'static, io::Result<Bytes>>) -> Result<Uploaded> {
        self.required_name()?;
        let part_size = self.part_size.unwrap_or(SMALL);
        let size = usize::try_from(part_size).ok().filter(|_| part_size >= MIN_PART);
        let size = size.ok_or_else(|| Error::invalid("parts must have at least 64 KiB"))?;
        let mut parts = Parts { stream: stream.fuse(), rest: Bytes::new(), size };
        let first = parts.next().await?;
        if first.len() < size {
            self.meter.total = Some(first.len() as u64);
            return self.send_whole(&Content::Bytes(first)).await;
        }
        let created = self.create(None, None).await?;
        let session = self.session(created.uid, created.links, Some(part_size))?;
        let sent = session.send_parts(first, parts, self.parallel).await;
        session.finish_or_abort(sent, true).await
    }

    async fn continue_upload(&self, content: &Content, resumable: ResumableUpload) -> Result<Uploaded> {
        if resumable.size != content.size() || resumable.modified != nanoseconds(content.modified()) {
            let message = "the content is not that with which the upload began; send it anew";
            return Err(Error::new(ErrorKind::SourceChanged, message));
        }
        let renewed = self.client.create_upload_links(&resumable.uid, &self.links_request()).await?;
        let session = self.session(resumable.uid, Some(renewed.links), renewed.part_size)?;
        let status = session.status().await?;
        let sent = session.send_file(content, self.parallel, &status.parts).await;
        session.finish_or_abort(sent, false).await
    }

    async fn create(&self, size: Option<u64>, blake3: Option<[u8; 32]>) -> Result<CreatedUpload> {
        let request = CreateUploadRequest {
            name: self.required_name()?.to_owned(),
            size,
            content_type: self.content_type.clone(),
            blake3: blake3.map(hex::encode),
            part_size: self.part_size.filter(|_| size.is_some()),
            metadata: self.metadata.clone(),
            expires_in: self.links_request().expires_in,
            ..CreateUploadRequest::default()
        };
        self.client.create_upload(&request).await
    }

    /// Answers a challenge. Returns `false` if the content must be sent.
    async fn prove(&self, content: &Content, challenge: &Challenge) -> Result<bool> {
        let mut key = [0; 32];
        hex::decode_to_slice(&challenge.key, &mut key)
            .map_err(|_| Error::not_osproxy(201, "the challenge has an invalid key"))?;
        let range =
            |range: &osproxy_api::v1::ByteRange| range.offset..range.offset.saturating_add(range.length);
        let ranges: Vec<_> = challenge.ranges.iter().map(range).collect();
        let proof = content.keyed_hash(&key, &ranges).await?;
        let call = self.client.call_link(Method::POST, &challenge.link)?.json(&ProofRequest { proof })?;
        match self.client.send::<UploadStatus>(call).await {
            Ok(status) => Ok(matches!(status.state, UploadState::Stored | UploadState::Processing)),
            Err(error) if error.kind() == ErrorKind::DigestMismatch => Ok(false),
            // Also if the response to the only answer was lost: whether it was right is not known.
            Err(error) if error.code() == Some(ErrorCode::ChallengeGone) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn session(&self, uid: String, links: Option<UploadLinks>, part_size: Option<u64>) -> Result<Session> {
        let missing = || Error::not_osproxy(201, "the response has no links or no part size");
        let (Some(links), Some(part_size @ 1..)) = (links, part_size) else { return Err(missing()) };
        Ok(Session {
            client: self.client.clone(),
            uid,
            links: Mutex::new(links),
            links_request: self.links_request(),
            part_size,
            meter: self.meter.clone(),
        })
    }

    fn links_request(&self) -> CreateUploadLinksRequest {
        let expires_in = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX).max(1);
        CreateUploadLinksRequest { expires_in, constraints: None }
    }

    fn required_name(&self) -> Result<&str> {
        self.name.as_deref().ok_or_else(|| Error::invalid("an upload of bytes or a stream needs a name"))
    }
}

impl Client {
    /// Prepares an upload of a file, of bytes, or of a stream.
    pub fn upload(&self, source: impl Into<Source>) -> Upload {
        Upload::new(self.clone(), source.into())
    }

    /// Aborts an upload, and removes the parts that were sent. The API key needs the scope
    /// `upload`.
    pub async fn abort_upload(&self, uid: &str) -> Result<()> {
        let links =
            self.create_upload_links(uid, &CreateUploadLinksRequest { expires_in: 60, constraints: None });
        let links = links.await?.links;
        self.send_empty(self.call_link(Method::DELETE, &links.state)?).await
    }
}

/// An upload in parts that the server has created.
struct Session {
    client: Client,
    uid: String,
    links: Mutex<UploadLinks>,
    links_request: CreateUploadLinksRequest,
    part_size: u64,
    meter: Meter,
}

impl Session {
    fn resumable(&self, content: &Content) -> ResumableUpload {
        let (size, modified) = (content.size(), nanoseconds(content.modified()));
        ResumableUpload { uid: self.uid.clone(), size, modified }
    }

    /// Sends the parts of the content that are not in `received`, and completes the upload.
    async fn send_file(&self, content: &Content, parallel: usize, received: &[u32]) -> Result<Uploaded> {
        let (size, part_size) = (content.size(), self.part_size);
        let count = u32::try_from(size.div_ceil(part_size))
            .map_err(|_| Error::invalid("the content has too many parts"))?;
        let part = move |number: u32| async move {
            let start = u64::from(number - 1) * part_size;
            let range = start..size.min(start + part_size);
            let digests = content.hash(range.clone()).await?;
            if received.contains(&number) {
                self.meter.add(range.end - range.start);
            } else {
                self.send_part(number, content, range, digests).await?;
            }
            Ok::<_, Error>(digests)
        };
        let digests: Vec<RangeDigests> =
            stream::iter(1..=count).map(part).buffered(parallel).try_collect().await?;
        content.check_unchanged().await?;
        let blake3 = match &digests[..] {
            [only] => only.blake3,
            all => {
                let subtrees: Vec<_> = all.iter().map(|part| part.subtree).collect();
                digest::combine(&subtrees, part_size, size)
                    .ok_or_else(|| Error::not_osproxy(201, "the part size is not a power of two"))?
            }
        };
        self.complete(count, size, blake3).await
    }

    /// Sends the parts of a stream, and completes the upload.
    async fn send_parts(&self, first: Bytes, parts: Parts, parallel: usize) -> Result<Uploaded> {
        let mut hasher = blake3::Hasher::new();
        let (mut size, mut count) = (0, 0);
        let all = stream::try_unfold((Some(first), parts), async |(first, mut parts)| {
            let part = match first {
                Some(part) => part,
                None => parts.next().await?,
            };
            Ok::<_, Error>((!part.is_empty()).then_some((part, (None, parts))))
        });
        let sent = all.map_ok(|part| {
            hasher.update(&part);
            size += part.len() as u64;
            count += 1;
            let number = count;
            async move {
                let content = Content::Bytes(part);
                let range = 0..content.size();
                let digests = content.hash(range.clone()).await?;
                self.send_part(number, &content, range, digests).await
            }
        });
        sent.try_buffer_unordered(parallel).try_collect::<()>().await?;
        self.complete(count, size, hasher.finalize().into()).await
    }

    /// Sends one part, again if necessary.
    async fn send_part(
        &self,
        number: u32,
        content: &Content,
        range: Range<u64>,
        digests: RangeDigests,
    ) -> Result<()> {
        let size = range.end - range.start;
        let transfer = Transfer { client: &self.client, content, range, meter: &self.meter };
        let mut backoff = self.client.backoff();
        loop {
            content.check_unchanged().await?;
            let link = self.link(|links| links.part.replace("{number}", &number.to_string()));
            let request = self.client.request(&self.client.call_link(Method::PUT, &link)?);
            let request = request.header("content-digest", digest::header("sha-256", &digests.sha256));
            let error = match transfer.send(request).await {
                Ok(response) => match expect_no_content(&response) {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        self.meter.subtract(size);
                        error
                    }
                },
                Err(error) => error,
            };
            content.check_unchanged().await?;
            let was_expired = error.code() == Some(ErrorCode::LinkExpired);
            if was_expired {
                backoff.pause_always(error).await?;
                self.renew_links().await?;
            } else {
                pause_after_damage(&mut backoff, error).await?;
            }
            // The part may have arrived, although its response did not.
            if self.status().await?.parts.contains(&number) {
                self.meter.add(size);
                return Ok(());
            }
        }
    }

    async fn complete(&self, parts: u32, size: u64, blake3: [u8; 32]) -> Result<Uploaded> {
        let request = CompleteUploadRequest {
            parts: Some(parts),
            size: Some(size),
            blake3: Some(hex::encode(blake3)),
            ..CompleteUploadRequest::default()
        };
        let mut backoff = self.client.backoff();
        loop {
            let link = self.link(|links| links.complete.clone());
            let call = self.client.call_link(Method::POST, &link)?.json(&request)?;
            match self.client.send::<UploadStatus>(call).await {
                Ok(status) if matches!(status.state, UploadState::Stored | UploadState::Processing) => {
                    return Ok(uploaded(self.uid.clone(), size, blake3, false));
                }
                // The store is still assembling the parts.
                Ok(_) => {
                    backoff.pause_always(Error::new(ErrorKind::Transport, "the upload does not end")).await?;
                }
                Err(error) if error.code() == Some(ErrorCode::LinkExpired) => {
                    backoff.pause_always(error).await?;
                    self.renew_links().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn status(&self) -> Result<UploadStatus> {
        let link = self.link(|links| links.state.clone());
        match self.client.send(self.client.call_link(Method::GET, &link)?).await {
            Err(error) if error.code() == Some(ErrorCode::LinkExpired) => {
                self.renew_links().await?;
                let link = self.link(|links| links.state.clone());
                self.client.send(self.client.call_link(Method::GET, &link)?).await
            }
            status => status,
        }
    }

    async fn renew_links(&self) -> Result<()> {
        let renewed = self.client.create_upload_links(&self.uid, &self.links_request).await?;
        *self.links.lock().unwrap_or_else(PoisonError::into_inner) = renewed.links;
        Ok(())
    }

    fn link(&self, choose: impl FnOnce(&UploadLinks) -> String) -> String {
        choose(&self.links.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes what was sent, if the upload failed and cannot be resumed.
    async fn finish_or_abort(&self, sent: Result<Uploaded>, abort: bool) -> Result<Uploaded> {
        let is_useless = abort || matches!(&sent, Err(error) if error.kind() == ErrorKind::SourceChanged);
        if sent.is_err() && is_useless {
            let link = self.link(|links| links.state.clone());
            // One attempt: if it fails too, the upload expires.
            let request = self.client.call_link(Method::DELETE, &link).map(|call| self.client.request(&call));
            if let Ok(request) = request {
                let _ = tokio::time::timeout(Duration::from_secs(5), self.client.once(request)).await;
            }
        }
        sent
    }
}

/// Waits before content is sent again. Content that does not match its digest was damaged on the
/// way, because the caller has checked that it is unchanged.
async fn pause_after_damage(backoff: &mut crate::retry::Backoff<'_>, error: Error) -> Result<()> {
    match error.kind() {
        ErrorKind::DigestMismatch => backoff.pause_always(error).await,
        _ => backoff.pause(error).await,
    }
}

/// A range of content that a request sends.
struct Transfer<'a> {
    client: &'a Client,
    content: &'a Content,
    range: Range<u64>,
    meter: &'a Meter,
}

impl Transfer<'_> {
    /// Sends the range once. Fails if nothing moves for too long.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let counted = Arc::new(AtomicU64::new(0));
        let (meter, taken) = (self.meter.clone(), counted.clone());
        let body = self.content.stream(self.range.clone()).inspect_ok(move |block| {
            taken.fetch_add(block.len() as u64, Ordering::Relaxed);
            meter.add(block.len() as u64);
        });
        let request = request.header(CONTENT_LENGTH, self.range.end - self.range.start);
        let sent = self.client.once(request.body(Body::wrap_stream(body)));
        let sent = unless_stalled(sent, &counted, self.client.idle_timeout()).await;
        let counted = counted.load(Ordering::Relaxed);
        match sent {
            // The server does not read content that it has.
            Ok(_) => self.meter.add((self.range.end - self.range.start).saturating_sub(counted)),
            Err(_) => self.meter.subtract(counted),
        }
        sent
    }
}

async fn unless_stalled<T>(
    work: impl Future<Output = Result<T>>,
    counted: &AtomicU64,
    patience: Duration,
) -> Result<T> {
    tokio::pin!(work);
    let mut before = 0;
    loop {
        if let Ok(ended) = tokio::time::timeout(patience, &mut work).await {
            return ended;
        }
        let now = counted.load(Ordering::Relaxed);
        if now == before {
            return Err(stalled());
        }
        before = now;
    }
}

/// Cuts a stream into parts of one size.
struct Parts {
    stream: stream::Fuse<BoxStream<'static, io::Result<Bytes>>>,
    rest: Bytes,
    size: usize,
}

impl Parts {
    /// The next part. It is shorter than the others at the end of the stream, and then empty.
    async fn next(&mut self) -> Result<Bytes> {
        let mut part = BytesMut::with_capacity(self.size);
        loop {
            let taken = self.rest.split_to(self.rest.len().min(self.size - part.len()));
            part.extend_from_slice(&taken);
            if part.len() == self.size {
                return Ok(part.freeze());
            }
            match self.stream.next().await {
                None => return Ok(part.freeze()),
                Some(block) => {
                    self.rest = block.map_err(|error| Error::io("cannot read the stream", error))?;
                }
            }
        }
    }
}

fn uploaded(uid: String, size: u64, blake3: [u8; 32], was_known: bool) -> Uploaded {
    Uploaded { uid, size, blake3: hex::encode(blake3), was_known, file: None }
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

fn nanoseconds(time: Option<SystemTime>) -> Option<u64> {
    u64::try_from(time?.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}
