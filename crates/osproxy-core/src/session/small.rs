//! Receives a small body that is the whole content of a file, and stores it in a pack. The body is
//! buffered, so its digests are known before anything is written.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    Stream, StreamExt,
    stream::{self, Chain, Fuse},
};
use osproxy_meta::{
    AnnouncedContent, CreatePackedOutcome, ExpectedDigests, FileRecord, MetaError, NewFile, OpenUpload,
    PackedBlob, StoreOutcome, UploadProgress, row_charge_of,
};
use osproxy_storage::{Digester, Digests, PackedContent, SizeHint};
use osproxy_types::{
    content_type::{self, Sniffer},
    error_chain,
    tenant::Tenant,
    uid::Uid,
};

use super::{
    receive::{SizeLimit, check_digests, check_not_longer, check_not_shorter},
    upload_session::{WriteRequest, select_digests},
    whole::body_length,
};
use crate::{
    Error, Result,
    admission::admit::AdmissionGuard,
    metrics::DedupSource,
    objects::deduplicate::SameContent,
    ops::{UploadOps, UploadOptions, check_content_type, object_refusal_error},
};

/// How long after a failed write new files take the path that writes to the database first.
const RECENT_FAILURE: Duration = Duration::from_secs(5);

/// Bytes that a multipart form may add to content. A form of this much more than the maximum size
/// may have small content.
const FORM_OVERHEAD: u64 = 4096;

/// A body whose first chunks were read.
pub(super) type Replayed<B> = Chain<stream::Iter<std::option::IntoIter<Result<Bytes>>>, Fuse<B>>;

/// What is left to do after [`try_store`].
pub(super) enum SmallOutcome<B> {
    /// Nothing: the content is stored.
    Stored(UploadProgress, Digests),
    /// The content must be stored as an object: it is not small, or the file does not accept it in
    /// one step.
    Object { size: SizeHint, body: Replayed<B> },
}

fn replay<B: Stream<Item = Result<Bytes>>>(
    start: Option<Bytes>,
    rest: Fuse<B>,
    size: SizeHint,
) -> SmallOutcome<B> {
    SmallOutcome::Object { size, body: stream::iter(start.map(Ok)).chain(rest) }
}

/// Collects chunks. A single chunk, the usual case, is not copied.
#[derive(Default)]
struct Buffer {
    first: Bytes,
    all: BytesMut,
}

impl Buffer {
    fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = chunk;
        } else {
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
            self.all.extend_from_slice(&chunk);
        }
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// Small content that was received and checked.
struct SmallContent {
    bytes: Bytes,
    digests: Digests,
    sniffed: Option<&'static str>,
}

/// Stores the body in a pack, if it is small and the file has received nothing else.
pub(super) async fn try_store<B>(
    uploads: &Arc<UploadOps>,
    request: &WriteRequest,
    admission: &mut AdmissionGuard,
    body: B,
) -> Result<SmallOutcome<B>>
where
    B: Stream<Item = Result<Bytes>> + Send + Unpin,
{
    let WriteRequest { uid, options, size, .. } = request;
    let body = body.fuse();
    let max = uploads.stores.max_packed_size();
    if max == 0 || size.at_most().is_some_and(|size| size > max + FORM_OVERHEAD) {
        return Ok(replay(None, body, *size));
    }
    let Some(file) = uploads.meta.uploads.open_upload(*uid).await? else {
        return Ok(replay(None, body, *size));
    };
    let max_size = uploads.limits.max_size.min(options.constraints.max_size.unwrap_or(u64::MAX));
    let limit = SizeLimit { subject: "file", max: max_size };
    let size = body_length(file.size, *size)?;
    if let SizeHint::Exact(size) = size {
        limit.check(size)?;
    }
    let uncharged = file.size.is_none().then_some(size);
    admission.check_tenant_limits(&uploads.admission, &file.tenant, uncharged).await?;

    let (bytes, body) = match receive(uploads, size, limit, body).await? {
        Buffered::Whole { bytes, rest } => (bytes, rest),
        Buffered::TooLong { start, rest } => return Ok(replay(Some(start), rest, size)),
    };
    let received = SizeHint::Exact(bytes.len() as u64);
    if uncharged.is_some() {
        // Before, the size may not have been known.
        admission.check_tenant_limits(&uploads.admission, &file.tenant, Some(received)).await?;
    }
    let expected = options.expected.or(file.expected);
    let content = SmallContent::check(bytes.clone(), options, &expected, &file.name)?;
    let progress = UploadProgress {
        tenant: file.tenant.clone(),
        state: uploads.meta.processing.completed_state(),
        parts: Vec::new(),
        received: content.digests.size,
        size: Some(content.digests.size),
        part_size: file.part_size,
    };
    let digests = content.digests;
    // Spawned: this must complete even if the client disconnects.
    let committed = uploads.detached_work.spawn(commit(uploads.clone(), *uid, file, content));
    if committed.await.map_err(Error::internal)?? {
        return Ok(SmallOutcome::Stored(progress, digests));
    }
    Ok(replay(Some(bytes), body, received))
}

/// The start of a body.
enum Buffered<B> {
    /// The whole body, which is small; `rest` has ended.
    Whole { bytes: Bytes, rest: Fuse<B> },
    /// The body is not small.
    TooLong { start: Bytes, rest: Fuse<B> },
}

/// Buffers a body up to the size of small content.
async fn receive<B>(
    uploads: &UploadOps,
    size: SizeHint,
    limit: SizeLimit,
    mut body: Fuse<B>,
) -> Result<Buffered<B>>
where
    B: Stream<Item = Result<Bytes>> + Send + Unpin,
{
    let (mut buffer, mut received) = (Buffer::default(), 0);
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        received += bytes.len() as u64;
        limit.check(received)?;
        check_not_longer(size, received)?;
        buffer.push(bytes);
        if received > uploads.stores.max_packed_size() {
            return Ok(Buffered::TooLong { start: buffer.into_bytes(), rest: body });
        }
    }
    check_not_shorter(size, received)?;
    Ok(Buffered::Whole { bytes: buffer.into_bytes(), rest: body })
}

impl SmallContent {
    /// Computes the digests of the whole content and checks them. Checks the type against the
    /// constraints in `options`.
    fn check(bytes: Bytes, options: &UploadOptions, expected: &ExpectedDigests, name: &str) -> Result<Self> {
        let mut digester = Digester::new(select_digests(options, expected));
        let mut content_type = Sniffer::default();
        digester.update(&bytes);
        content_type.update(&bytes);
        let (digests, sniffed) = (digester.finish(), content_type.finish());
        check_digests(expected, &digests)?;
        check_content_type(&options.constraints, sniffed, name)?;
        Ok(Self { bytes, digests, sniffed })
    }
}

/// What became of a body that is the content of a new file.
pub(crate) enum NewFileOutcome<B> {
    /// The file is created and complete.
    Stored(Box<FileRecord>),
    /// Nothing is stored: the content is not small, or the file cannot be created in one step.
    NotStored { size: SizeHint, body: Replayed<B> },
}

/// A file that is created when its content has arrived.
pub(crate) struct NewSmallFile {
    pub(crate) tenant: Tenant,
    pub(crate) name: String,
    pub(crate) announced: AnnouncedContent,
}

/// Whether [`try_create`] may create a file with a body of this size. Not after a failed write: the
/// content of every further request would become dead space.
pub(crate) fn may_create_small(uploads: &UploadOps, size: SizeHint) -> bool {
    let max = uploads.stores.max_packed_size();
    max > 0 && size.at_most().is_none_or(|size| size <= max) && !uploads.write_failures.is_recent()
}

/// Creates a file with the body as its content in one transaction, if the body is small. The
/// expected digests are those in `options`.
pub(crate) async fn try_create<B>(
    uploads: &Arc<UploadOps>,
    file: NewSmallFile,
    options: &UploadOptions,
    size: SizeHint,
    body: B,
) -> Result<NewFileOutcome<B>>
where
    B: Stream<Item = Result<Bytes>> + Send + Unpin,
{
    let not_stored = |start: Option<Bytes>, body: Fuse<B>, size| NewFileOutcome::NotStored {
        size,
        body: stream::iter(start.map(Ok)).chain(body),
    };
    // The quota must have room for the row too.
    let row_charge = row_charge_of(&file.name, &file.announced);
    let charge = |size: u64| Some(SizeHint::Exact(size.saturating_add(row_charge)));
    let mut admission = uploads.admission.admit_content(&options.constraints, size).await?;
    let known = if let SizeHint::Exact(size) = size { size } else { 0 };
    admission.check_tenant_limits(&uploads.admission, &file.tenant, charge(known)).await?;
    let max_size = uploads.limits.max_size.min(options.constraints.max_size.unwrap_or(u64::MAX));
    let limit = SizeLimit { subject: "file", max: max_size };
    let (bytes, body) = match receive(uploads, size, limit, body.fuse()).await? {
        Buffered::Whole { bytes, rest } => (bytes, rest),
        Buffered::TooLong { start, rest } => return Ok(not_stored(Some(start), rest, size)),
    };
    let received = bytes.len() as u64;
    if size != SizeHint::Exact(received) {
        admission.check_tenant_limits(&uploads.admission, &file.tenant, charge(received)).await?;
    }
    let content = SmallContent::check(bytes.clone(), options, &options.expected, &file.name)?;
    // Spawned: this must complete even if the client disconnects.
    let committed = uploads.detached_work.spawn(commit_new(uploads.clone(), file, content));
    if let Some(record) = committed.await.map_err(Error::internal)?? {
        return Ok(NewFileOutcome::Stored(record));
    }
    Ok(not_stored(Some(bytes), body, SizeHint::Exact(received)))
}

/// Creates a file with small content. Returns `None` and changes nothing if the tenant may already
/// have the same content.
async fn commit_new(
    uploads: Arc<UploadOps>,
    file: NewSmallFile,
    content: SmallContent,
) -> Result<Option<Box<FileRecord>>> {
    let _committing = uploads.metrics.commits.begin();
    let NewSmallFile { tenant, name, announced } = file;
    let SmallContent { bytes, digests, sniffed } = content;
    if !matches!(uploads.objects.find_same_content(&tenant, &digests).await?, SameContent::None) {
        return Ok(None);
    }
    let content_type = announced.content_type.clone();
    let content_type = content_type.unwrap_or_else(|| content_type::mime_type_of(sniffed, &name));
    let uid = uploads.uids.next().await?;
    let file = NewFile { uid, tenant, name, announced, grant: None };
    let record = async |blob| uploads.meta.uploads.create_packed(file, blob, content_type).await;
    let is_stored = |outcome: &CreatePackedOutcome| matches!(outcome, CreatePackedOutcome::Created(_));
    let appended = append(&uploads, uid.get(), digests, sniffed, bytes, record, is_stored).await;
    match appended.inspect_err(|_| uploads.write_failures.record())? {
        CreatePackedOutcome::Created(record) => Ok(Some(record)),
        CreatePackedOutcome::OverQuota => Err(Error::quota_exceeded()),
        CreatePackedOutcome::Refused(refusal) => Err(object_refusal_error(refusal)),
        CreatePackedOutcome::Conflict => Ok(None),
    }
}

/// When a write last failed.
#[derive(Default)]
pub(crate) struct WriteFailures(Mutex<Option<Instant>>);

impl WriteFailures {
    fn record(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_recent(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < RECENT_FAILURE)
    }
}

/// Appends content to a pack, then calls `record`. Unless `is_stored` holds for the outcome, counts
/// the space in the pack as dead.
async fn append<T>(
    uploads: &UploadOps,
    id: i64,
    digests: Digests,
    sniffed: Option<&'static str>,
    bytes: Bytes,
    record: impl AsyncFnOnce(PackedBlob) -> std::result::Result<T, MetaError>,
    is_stored: impl FnOnce(&T) -> bool,
) -> Result<T> {
    let store = uploads.stores.name_for_new();
    let content = PackedContent { blob_id: id, blake3: digests.blake3, bytes, is_copy: false };
    // Held until the row is committed.
    let object = uploads.stores.packs(store)?.append(content).await?;
    let blob = PackedBlob { id, store: store.to_owned(), key: object.key.clone(), digests, sniffed };
    let outcome = record(blob).await;
    if !outcome.as_ref().is_ok_and(is_stored)
        && let Err(error) = uploads.meta.blobs.count_dead_object(store, object.key.clone()).await
    {
        tracing::warn!(error = error_chain(&error), "cannot count the dead space of a pack");
    }
    drop(object);
    Ok(outcome?)
}

/// Makes small content the content of a file. Returns `false` and changes nothing if the content
/// must be stored as an object, because another request changes the file, or the store has lost an
/// object with the same content.
async fn commit(uploads: Arc<UploadOps>, uid: Uid, file: OpenUpload, content: SmallContent) -> Result<bool> {
    let _committing = uploads.metrics.commits.begin();
    let OpenUpload { tenant, name, content_type, is_pending, .. } = file;
    let SmallContent { bytes, digests, sniffed } = content;
    let content_type = content_type.unwrap_or_else(|| content_type::mime_type_of(sniffed, &name));
    let same = match uploads.objects.find_same_content(&tenant, &digests).await? {
        SameContent::Intact(same) => Some(same),
        SameContent::None => None,
        SameContent::Lost(_) => return Ok(false),
    };
    let outcome = if let Some(same) = &same {
        uploads.meta.uploads.share_blob(uid, tenant, same.id, digests, None, content_type).await?
    } else {
        let id = if is_pending { uid.get() } else { uploads.uids.next().await?.get() };
        let record = async |blob| uploads.meta.uploads.finish_packed(uid, tenant, blob, content_type).await;
        append(&uploads, id, digests, sniffed, bytes, record, |outcome| *outcome == StoreOutcome::Stored)
            .await?
    };
    match outcome {
        StoreOutcome::Stored => {
            if same.is_some() {
                uploads.metrics.count_deduplicated(DedupSource::Upload, digests.size);
            }
            Ok(true)
        }
        StoreOutcome::OverQuota => Err(Error::quota_exceeded()),
        StoreOutcome::Refused(refusal) => Err(object_refusal_error(refusal)),
        StoreOutcome::Conflict | StoreOutcome::Superseded | StoreOutcome::Swept => Ok(false),
    }
}
