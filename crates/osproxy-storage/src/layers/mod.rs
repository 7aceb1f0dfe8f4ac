//! Layers around any store: retries, timeouts, limits, counters and injected faults.
//!
//! A [`Layer`] sees every operation. [`Layered`] wraps a store in one layer and is a store itself.

pub mod fault;
mod limit;
mod metrics;
mod retry;
mod timeout;

use std::{ops::Range, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use limit::Limit;
pub use metrics::{CounterTotals, Counters, MetricsLayer, OperationCounters};
pub use retry::Retry;
pub(crate) use timeout::TimedOut;
pub use timeout::Timeout;

use crate::{
    Backend, DigestSelection, Digests, Key, Multipart, ObjectList, ObjectReader, ObjectWriter, PackPage,
    PackedContent, PackedObject, Packs, PartLayout, Result, SizeHint, UploadList,
};

/// An operation of a store, as layers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Backend::prepare`]
    Prepare,
    /// [`Backend::clock`]
    Clock,
    /// [`Backend::create`], [`Multipart::create_part`]
    Create,
    /// [`Backend::open`], [`Multipart::open_incomplete`]
    Open,
    /// [`Backend::size`]
    Size,
    /// [`Backend::delete`], [`Multipart::discard_part`], [`Packs::remove`]
    Delete,
    /// [`Backend::list`], [`Packs::records`]
    List,
    /// [`ObjectWriter::write`], [`ObjectWriter::append_object`]
    Write,
    /// [`ObjectWriter::finish`]
    Finish,
    /// [`ObjectWriter::publish`]
    Publish,
    /// [`Multipart::begin`], [`Multipart::begin_unreserved`], [`Multipart::begin_growing`]
    BeginUpload,
    /// [`Multipart::complete`]
    CompleteUpload,
    /// [`Multipart::abort`], [`Multipart::abort_all`]
    AbortUpload,
    /// [`Multipart::list_parts`]
    ListParts,
    /// [`Multipart::list_uploads`]
    ListUploads,
    /// [`Packs::append`]
    Append,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 16] = [
        Self::Prepare,
        Self::Clock,
        Self::Create,
        Self::Open,
        Self::Size,
        Self::Delete,
        Self::List,
        Self::Write,
        Self::Finish,
        Self::Publish,
        Self::BeginUpload,
        Self::CompleteUpload,
        Self::AbortUpload,
        Self::ListParts,
        Self::ListUploads,
        Self::Append,
    ];

    /// The name used in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Clock => "clock",
            Self::Create => "create",
            Self::Open => "open",
            Self::Size => "size",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Write => "write",
            Self::Finish => "finish",
            Self::Publish => "publish",
            Self::BeginUpload => "begin_upload",
            Self::CompleteUpload => "complete_upload",
            Self::AbortUpload => "abort_upload",
            Self::ListParts => "list_parts",
            Self::ListUploads => "list_uploads",
            Self::Append => "append",
        }
    }
}

/// A function that starts an operation. Each call is one attempt.
pub type RetryableOperation<'a, T> = dyn Fn() -> BoxFuture<'a, Result<T>> + Send + Sync + 'a;

/// Middleware around a store.
#[async_trait]
pub trait Layer: Send + Sync + 'static {
    /// Runs an operation that may be retried.
    async fn run_retryable<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        run: &RetryableOperation<'a, T>,
    ) -> Result<T> {
        self.run_once(operation, run()).await
    }

    /// Runs an operation once. By default, [`run_retryable`](Self::run_retryable) calls this
    /// method. [`Layered`] calls this method directly for operations of a writer. These cannot be
    /// retried, because the bytes that were written are no longer available.
    async fn run_once<'a, T: Send + 'a>(
        &'a self,
        _operation: Operation,
        running: BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        running.await
    }

    /// Wraps the reader of an opened object.
    fn reader(&self, _opened: OpenedObject, reader: ObjectReader) -> ObjectReader {
        reader
    }

    /// Records that a writer accepted this number of bytes.
    fn record_written(&self, _bytes: usize) {}

    /// Acquires the permit of a reader or writer, before it is opened. The permit is released when
    /// the reader or writer is dropped.
    async fn acquire_permit(&self) -> Result<Option<Box<dyn Send>>> {
        Ok(None)
    }
}

/// An opened object, as passed to [`Layer::reader`].
pub struct OpenedObject {
    /// The store below the layer.
    pub store: Arc<dyn Backend>,
    /// Key of the object.
    pub key: Key,
    /// The store's id of the upload, if the object is an upload that is not completed.
    pub upload: Option<String>,
    /// The byte range of the reader.
    pub range: Range<u64>,
    /// The permit from [`Layer::acquire_permit`], which the wrapped reader must hold.
    pub permit: Option<Box<dyn Send>>,
}

/// Opens an object, or an upload that is not completed; see [`OpenedObject`].
async fn open(
    store: &dyn Backend,
    key: &Key,
    upload: Option<&str>,
    range: Range<u64>,
) -> Result<ObjectReader> {
    match (upload, store.multipart()) {
        (Some(upload), Some(multipart)) => multipart.open_incomplete(key, upload, range).await,
        _ => store.open(key, range).await,
    }
}

/// A store wrapped in a layer.
pub struct Layered<L> {
    layer: Arc<L>,
    store: Arc<dyn Backend>,
}

impl<L: Layer> Layered<L> {
    /// Wraps a store in a layer.
    pub fn new(layer: L, store: Arc<dyn Backend>) -> Self {
        Self { layer: Arc::new(layer), store }
    }
}

#[async_trait]
impl<L: Layer> Backend for Layered<L> {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    async fn prepare(&self, create_missing: bool) -> Result<()> {
        let run = move || -> BoxFuture<'_, _> { Box::pin(self.store.prepare(create_missing)) };
        self.layer.run_retryable(Operation::Prepare, &run).await
    }

    async fn clock(&self) -> Result<Option<SystemTime>> {
        let run = move || -> BoxFuture<'_, _> { Box::pin(self.store.clock()) };
        self.layer.run_retryable(Operation::Clock, &run).await
    }

    async fn create(&self, key: &Key, size: SizeHint) -> Result<Box<dyn ObjectWriter>> {
        let permit = self.layer.acquire_permit().await?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(self.store.create(key, size)) };
        let writer = self.layer.run_retryable(Operation::Create, &run).await?;
        Ok(Box::new(LayeredWriter { layer: self.layer.clone(), writer, _permit: permit }))
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<ObjectReader> {
        let permit = self.layer.acquire_permit().await?;
        let reader_range = range.clone();
        let run = move || -> BoxFuture<'_, _> { Box::pin(self.store.open(key, reader_range.clone())) };
        let reader = self.layer.run_retryable(Operation::Open, &run).await?;
        Ok(self.layer.reader(
            OpenedObject { store: self.store.clone(), key: key.clone(), upload: None, range, permit },
            reader,
        ))
    }

    async fn size(&self, key: &Key) -> Result<u64> {
        let run = move || -> BoxFuture<'_, _> { Box::pin(self.store.size(key)) };
        self.layer.run_retryable(Operation::Size, &run).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let run = move || -> BoxFuture<'_, _> { Box::pin(self.store.delete(keys)) };
        self.layer.run_retryable(Operation::Delete, &run).await
    }

    async fn list(&self) -> Result<ObjectList> {
        let run = move || -> BoxFuture<'_, _> { Box::pin(self.store.list()) };
        self.layer.run_retryable(Operation::List, &run).await
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        self.store.multipart().map(|_| self as &dyn Multipart)
    }

    fn packs(&self) -> Option<&dyn Packs> {
        self.store.packs().map(|_| self as &dyn Packs)
    }
}

impl<L> Layered<L> {
    /// The multipart uploads of the wrapped store. Fails if the store has none. Callers never see
    /// this error, because [`Backend::multipart`] then returns `None`.
    fn inner(&self) -> Result<&dyn Multipart> {
        let unsupported =
            || crate::Error::new(crate::ErrorKind::Other, self.store.name(), "multipart upload");
        self.store.multipart().ok_or_else(unsupported)
    }
}

#[async_trait]
impl<L: Layer> Multipart for Layered<L> {
    fn min_part_size(&self) -> u64 {
        self.store.multipart().map_or(0, Multipart::min_part_size)
    }

    fn max_part_size(&self) -> u64 {
        self.store.multipart().map_or(0, Multipart::max_part_size)
    }

    fn is_preallocated(&self) -> bool {
        self.store.multipart().is_some_and(Multipart::is_preallocated)
    }

    async fn begin(&self, key: &Key, layout: Option<PartLayout>) -> Result<String> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.begin(key, layout)) };
        self.layer.run_retryable(Operation::BeginUpload, &run).await
    }

    async fn begin_unreserved(&self, key: &Key, layout: PartLayout) -> Result<String> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.begin_unreserved(key, layout)) };
        self.layer.run_retryable(Operation::BeginUpload, &run).await
    }

    async fn begin_growing(&self, key: &Key, slot_size: u64) -> Result<String> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.begin_growing(key, slot_size)) };
        self.layer.run_retryable(Operation::BeginUpload, &run).await
    }

    async fn create_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        size: u64,
    ) -> Result<Box<dyn ObjectWriter>> {
        let permit = self.layer.acquire_permit().await?;
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.create_part(key, upload, number, size)) };
        let writer = self.layer.run_retryable(Operation::Create, &run).await?;
        Ok(Box::new(LayeredWriter { layer: self.layer.clone(), writer, _permit: permit }))
    }

    async fn complete(&self, key: &Key, upload: &str, parts: &[(u32, String)], end: u64) -> Result<()> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.complete(key, upload, parts, end)) };
        self.layer.run_retryable(Operation::CompleteUpload, &run).await
    }

    async fn open_incomplete(&self, key: &Key, upload: &str, range: Range<u64>) -> Result<ObjectReader> {
        let permit = self.layer.acquire_permit().await?;
        let inner = self.inner()?;
        let reader_range = range.clone();
        let run = move || -> BoxFuture<'_, _> {
            Box::pin(inner.open_incomplete(key, upload, reader_range.clone()))
        };
        let reader = self.layer.run_retryable(Operation::Open, &run).await?;
        let (store, key, upload) = (self.store.clone(), key.clone(), Some(upload.to_owned()));
        Ok(self.layer.reader(OpenedObject { store, key, upload, range, permit }, reader))
    }

    async fn discard_part(&self, key: &Key, upload: &str, number: u32) -> Result<()> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.discard_part(key, upload, number)) };
        self.layer.run_retryable(Operation::Delete, &run).await
    }

    async fn abort(&self, key: &Key, upload: &str) -> Result<()> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.abort(key, upload)) };
        self.layer.run_retryable(Operation::AbortUpload, &run).await
    }

    async fn list_parts(&self, key: &Key, upload: &str) -> Result<Vec<(u32, String)>> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.list_parts(key, upload)) };
        self.layer.run_retryable(Operation::ListParts, &run).await
    }

    async fn abort_all(&self, key: &Key, part_size: Option<u64>) -> Result<()> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.abort_all(key, part_size)) };
        self.layer.run_retryable(Operation::AbortUpload, &run).await
    }

    async fn list_uploads(&self, key: Option<&Key>) -> Result<UploadList> {
        let inner = self.inner()?;
        let run = move || -> BoxFuture<'_, _> { Box::pin(inner.list_uploads(key)) };
        self.layer.run_retryable(Operation::ListUploads, &run).await
    }
}

impl<L> Layered<L> {
    /// The packs of the wrapped store. Fails if the store has none. Callers never see this error,
    /// because [`Backend::packs`] then returns `None`.
    fn inner_packs(&self) -> Result<&dyn Packs> {
        let unsupported = || crate::Error::new(crate::ErrorKind::Other, self.store.name(), "pack");
        self.store.packs().ok_or_else(unsupported)
    }
}

#[async_trait]
impl<L: Layer> Packs for Layered<L> {
    fn max_size(&self) -> u64 {
        self.store.packs().map_or(0, Packs::max_size)
    }

    async fn append(&self, content: PackedContent) -> Result<PackedObject> {
        let len = content.bytes.len();
        let appended = self.layer.run_once(Operation::Append, self.inner_packs()?.append(content)).await?;
        self.layer.record_written(len);
        Ok(appended)
    }

    async fn seal(&self, pack: u32) -> Result<()> {
        self.inner_packs()?.seal(pack).await
    }

    async fn records(&self, pack: u32, from: u64) -> Result<PackPage> {
        let inner = self.inner_packs()?;
        let run = move || -> BoxFuture<'_, _> { inner.records(pack, from) };
        self.layer.run_retryable(Operation::List, &run).await
    }

    async fn remove(&self, pack: u32) -> Result<()> {
        let inner = self.inner_packs()?;
        let run = move || -> BoxFuture<'_, _> { inner.remove(pack) };
        self.layer.run_retryable(Operation::Delete, &run).await
    }
}

struct LayeredWriter<L> {
    layer: Arc<L>,
    writer: Box<dyn ObjectWriter>,
    _permit: Option<Box<dyn Send>>,
}

#[async_trait]
impl<L: Layer> ObjectWriter for LayeredWriter<L> {
    fn select_digests(&mut self, selection: DigestSelection) {
        self.writer.select_digests(selection);
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let len = bytes.len();
        self.layer.run_once(Operation::Write, self.writer.write(bytes)).await?;
        self.layer.record_written(len);
        Ok(())
    }

    async fn skip(&mut self, bytes: Bytes) -> Result<()> {
        self.layer.run_once(Operation::Write, self.writer.skip(bytes)).await
    }

    async fn append_object(&mut self, key: &Key, range: Range<u64>) -> Result<bool> {
        self.layer.run_once(Operation::Write, self.writer.append_object(key, range)).await
    }

    async fn finish(&mut self) -> Result<Digests> {
        self.layer.run_once(Operation::Finish, self.writer.finish()).await
    }

    async fn publish(self: Box<Self>) -> Result<String> {
        let layer = self.layer.clone();
        layer.run_once(Operation::Publish, self.writer.publish()).await
    }

    async fn suspend(self: Box<Self>) -> Result<()> {
        let layer = self.layer.clone();
        layer.run_once(Operation::Publish, self.writer.suspend()).await
    }
}
