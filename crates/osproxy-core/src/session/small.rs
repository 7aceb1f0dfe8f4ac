//! Receives a small body that is the whole content of a file, and stores it in a pack. The body is
//! buffered, so its digests are known before anything is written.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{
    Stream, StreamExt,
    stream::{self, Chain, Fuse},
};
use osproxy_meta::{OpenUpload, PackedBlob, StoreOutcome};
use osproxy_storage::{Digester, Digests, PackedContent, SizeHint};
use osproxy_types::{
    content_type::{self, Sniffer},
    error_chain,
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
    ops::{UploadOps, check_content_type},
};

/// Bytes that a multipart form may add to content. A form of this much more than the maximum size
/// may have small content.
const FORM_OVERHEAD: u64 = 4096;

/// A body whose first chunks were read.
pub(super) type Replayed<B> = Chain<stream::Iter<std::option::IntoIter<Result<Bytes>>>, Fuse<B>>;

/// What is left to do after [`try_store`].
pub(super) enum SmallOutcome<B> {
    /// Nothing: the content is stored.
    Stored,
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
    let mut body = body.fuse();
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

    let (mut buffer, mut received) = (Buffer::default(), 0);
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        received += bytes.len() as u64;
        limit.check(received)?;
        check_not_longer(size, received)?;
        buffer.push(bytes);
        if received > max {
            return Ok(replay(Some(buffer.into_bytes()), body, size));
        }
    }
    check_not_shorter(size, received)?;
    let bytes = buffer.into_bytes();
    if uncharged.is_some() {
        // Before, the size may not have been known.
        let received = Some(SizeHint::Exact(received));
        admission.check_tenant_limits(&uploads.admission, &file.tenant, received).await?;
    }
    let content = {
        let expected = options.expected.or(file.expected);
        let mut digester = Digester::new(select_digests(options, &expected));
        let mut content_type = Sniffer::default();
        digester.update(&bytes);
        content_type.update(&bytes);
        let (digests, sniffed) = (digester.finish(), content_type.finish());
        check_digests(&expected, &digests)?;
        check_content_type(&options.constraints, sniffed, &file.name)?;
        SmallContent { bytes: bytes.clone(), digests, sniffed }
    };
    // Spawned: this must complete even if the client disconnects.
    let committed = uploads.detached_work.spawn(commit(uploads.clone(), *uid, file, content));
    if committed.await.map_err(Error::internal)?? {
        return Ok(SmallOutcome::Stored);
    }
    Ok(replay(Some(bytes), body, SizeHint::Exact(received)))
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
        let store = uploads.stores.name_for_new();
        let content = PackedContent { blob_id: id, blake3: digests.blake3, bytes, is_copy: false };
        // Held until the row is committed.
        let object = uploads.stores.packs(store)?.append(content).await?;
        let blob = PackedBlob { id, store: store.to_owned(), key: object.key.clone(), digests, sniffed };
        let outcome = uploads.meta.uploads.finish_packed(uid, tenant, blob, content_type).await;
        if !matches!(outcome, Ok(StoreOutcome::Stored))
            && let Err(error) = uploads.meta.blobs.count_dead_object(store, object.key.clone()).await
        {
            tracing::warn!(error = error_chain(&error), "cannot count the dead space of a pack");
        }
        drop(object);
        outcome?
    };
    match outcome {
        StoreOutcome::Stored => {
            if same.is_some() {
                uploads.metrics.count_deduplicated(DedupSource::Upload, digests.size);
            }
            Ok(true)
        }
        StoreOutcome::OverQuota => Err(Error::quota_exceeded()),
        StoreOutcome::Conflict | StoreOutcome::Superseded | StoreOutcome::Swept => Ok(false),
    }
}
