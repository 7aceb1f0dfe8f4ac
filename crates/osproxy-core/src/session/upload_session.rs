//! Receives content: every body takes this path into the service, whatever the protocol. A body is
//! the whole content of a file or one part of it, and takes three steps:
//! [`create`](UploadSession::create) records the write intent, [`stream`](UploadSession::stream)
//! writes the bytes to the store, and [`commit`](UploadSession::commit) makes them content.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use osproxy_meta::{ExpectedDigests, UploadProgress};
use osproxy_storage::{DigestSelection, Digests, SizeHint};
use osproxy_types::{tenant::Tenant, uid::Uid};

use super::{
    part::{self, PartWrite},
    receive::{Destination, Received, buffer_short_body, check_digests, receive},
    small::{self, SmallOutcome},
    whole::{self, Comparison, WholeWrite},
};
use crate::{
    Error, Result,
    admission::admit::AdmissionGuard,
    ops::{UploadOps, UploadOptions},
};

/// A body that a client wants to send.
pub(crate) struct WriteRequest {
    pub(crate) uid: Uid,
    pub(crate) piece: Piece,
    pub(crate) options: UploadOptions,
    /// What is known about the length of the body.
    pub(crate) size: SizeHint,
}

/// Which piece of the content a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Whole,
    /// The part with this number, starting at 1.
    Part(u32),
}

/// A body that is stored.
pub(crate) struct Written {
    /// The status of the upload, if it is known without reading the database.
    pub(crate) progress: Option<UploadProgress>,
    /// Computed digests of the body.
    pub(crate) digests: Digests,
}

/// Stores `body`, and returns when the body is durable. If this fails, or the future is dropped
/// before the whole body has arrived, the stored bytes are removed.
pub(crate) async fn write(
    uploads: &Arc<UploadOps>,
    mut request: WriteRequest,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<Written> {
    let mut admission = uploads.admission.admit_content(&request.options.constraints, request.size).await?;
    if request.piece == Piece::Whole {
        return match small::try_store(uploads, &request, &mut admission, body).await? {
            SmallOutcome::Stored(progress, digests) => Ok(Written { progress: Some(progress), digests }),
            SmallOutcome::Object { size, body } => {
                request.size = size;
                UploadSession::create(uploads, request, admission).await?.run(body).await
            }
        };
    }
    let limit = part::size_limit(uploads, &request.options.constraints);
    if let SizeHint::Exact(size) = request.size {
        limit.check(size)?;
    }
    if uploads.stores.needs_part_lengths() {
        let (size, body) = buffer_short_body(limit, request.size, body).await?;
        request.size = size;
        UploadSession::create(uploads, request, admission).await?.run(body).await
    } else {
        UploadSession::create(uploads, request, admission).await?.run(body).await
    }
}

/// An admitted body on its way into a store. Dropping it before [`commit`](Self::commit) removes
/// the stored bytes.
struct UploadSession {
    uploads: Arc<UploadOps>,
    uid: Uid,
    options: UploadOptions,
    size: SizeHint,
    admission: AdmissionGuard,
    write: PendingWrite,
}

/// How a body is processed.
pub(super) enum PendingWrite {
    Whole(WholeWrite),
    Part(Box<PartWrite>),
    /// The file is already complete: the body is compared with the content of the file, then
    /// removed.
    Compare(Comparison),
}

/// Requirements on a body, and its destination.
pub(super) struct BodyPlan<'a> {
    pub(super) tenant: &'a Tenant,
    /// Whether no quota check is needed: the announced size is charged already, or the body will be
    /// removed.
    pub(super) is_charged: bool,
    pub(super) expected: ExpectedDigests,
    pub(super) destination: Destination<'a>,
}

impl UploadSession {
    /// Records the write intent. Fails if the file does not accept this body.
    async fn create(
        uploads: &Arc<UploadOps>,
        request: WriteRequest,
        admission: AdmissionGuard,
    ) -> Result<Self> {
        let WriteRequest { uid, piece, options, size } = request;
        let (beginning, max_size) = (uploads.clone(), options.constraints.max_size);
        // Spawned, so that the changes to the database complete even if the client disconnects.
        let begun = uploads.detached_work.spawn(async move {
            match piece {
                Piece::Whole => whole::begin(&beginning, uid).await,
                Piece::Part(number) => {
                    let part = part::begin(&beginning, uid, number, size, max_size).await?;
                    Ok(PendingWrite::Part(Box::new(part)))
                }
            }
        });
        let write = begun.await.map_err(Error::internal)??;
        Ok(Self { uploads: uploads.clone(), uid, options, size, admission, write })
    }

    async fn run(mut self, body: impl Stream<Item = Result<Bytes>> + Send + Unpin) -> Result<Written> {
        let received = self.stream(body).await?;
        let digests = received.digests;
        self.commit(received).await?;
        Ok(Written { progress: None, digests })
    }

    /// Streams the body into the store and checks it. Nothing is published yet.
    async fn stream(&mut self, body: impl Stream<Item = Result<Bytes>> + Send + Unpin) -> Result<Received> {
        match self.try_stream(body).await {
            Ok(received) => Ok(received),
            Err(error) => Err(match &self.write {
                PendingWrite::Part(part) => {
                    part::explain_failure(&self.uploads, self.uid, part.multipart(), error).await
                }
                PendingWrite::Compare(_) => Comparison::explain_failure(error),
                PendingWrite::Whole(_) => error,
            }),
        }
    }

    async fn try_stream(
        &mut self,
        body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
    ) -> Result<Received> {
        let (uploads, options) = (&self.uploads, &self.options);
        let plan = match &self.write {
            PendingWrite::Whole(whole) => whole.plan(uploads, options, self.size)?,
            PendingWrite::Part(part) => part.plan(uploads, options, self.size),
            PendingWrite::Compare(comparison) => comparison.plan(uploads, options, self.size)?,
        };
        let uncharged = (!plan.is_charged).then_some(plan.destination.size);
        self.admission.check_tenant_limits(&uploads.admission, plan.tenant, uncharged).await?;
        let mut received = receive(uploads, plan.destination, body).await?;
        received.buffers = self.admission.buffers();
        check_digests(&plan.expected, &received.digests)?;
        match &self.write {
            PendingWrite::Whole(whole) => whole.check_content_type(options, &received)?,
            PendingWrite::Part(part)
                if part.determines_content_type(received.digests.size, received.sniffed) =>
            {
                part::check_first_part(uploads, self.uid, &options.constraints, received.sniffed).await?;
            }
            PendingWrite::Part(_) | PendingWrite::Compare(_) => {}
        }
        Ok(received)
    }

    /// Publishes the received bytes and makes them content, or compares them with the content of
    /// the file. The body counts against the limits of admission until this method ends.
    async fn commit(self, received: Received) -> Result<()> {
        let Self { uploads, uid, options, admission: _admission, write, .. } = self;
        match write {
            PendingWrite::Whole(whole) => {
                // Spawned: this must complete even if the client disconnects.
                let committed = uploads.detached_work.spawn(whole.commit(uploads.clone(), uid, received));
                committed.await.map_err(Error::internal)?
            }
            PendingWrite::Part(part) => {
                let multipart = part.multipart();
                let committed = part.commit(uploads.clone(), uid, received, options);
                match uploads.detached_work.spawn(committed).await.map_err(Error::internal)? {
                    Ok(()) => Ok(()),
                    Err(error) => Err(part::explain_failure(&uploads, uid, multipart, error).await),
                }
            }
            PendingWrite::Compare(comparison) => comparison.finish(&received.digests),
        }
    }
}

/// Returns the digests to compute while a body arrives.
pub(super) fn select_digests(options: &UploadOptions, expected: &ExpectedDigests) -> DigestSelection {
    DigestSelection { md5: options.digests.md5 || expected.md5.is_some(), ..expected.selection() }
}
