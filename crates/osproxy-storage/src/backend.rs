//! The traits that stores implement.

use std::{ops::Range, pin::Pin, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

use crate::{DigestSelection, Digests, Key, Result};

/// A store of objects.
///
/// Implementations do their own locking: every method may be called from any task at any time. The
/// caller validates names, limits and permissions, and does not write a key again once a row names
/// it. An implementation must still survive two writers of one key: the later one replaces the
/// object as a whole, or fails with `Exists`.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Name of the backend, such as `local`, which is recorded with every blob.
    fn name(&self) -> &'static str;

    /// Checks that objects can be stored: looks for the buckets and, if `create_missing` is
    /// set, creates those that are missing. For remote stores; fails with `NotFound` if a bucket is missing.
    async fn prepare(&self, _create_missing: bool) -> Result<()> {
        Ok(())
    }

    /// The time of a remote store, to the second, if it reports one. Needs no credentials: an error
    /// means that the server is unreachable or not an object store.
    async fn clock(&self) -> Result<Option<SystemTime>> {
        Ok(None)
    }

    /// Begins an object. Nothing can be read under `key` until [`ObjectWriter::publish`].
    /// Implementations must not reserve space for all of `size`, which is the client's claim. The
    /// writer may fail if a [`SizeHint::Exact`] turns out to be wrong.
    async fn create(&self, key: &Key, size: SizeHint) -> Result<Box<dyn ObjectWriter>>;

    /// Opens the bytes `range` of an object. If the object is deleted or replaced meanwhile, the
    /// reader either continues with the bytes of the opened object or fails; it never returns bytes
    /// of another object.
    ///
    /// Fails with `NotFound` if there is no such object. For a range beyond the end, this call or
    /// the reader fails with `Truncated`.
    async fn open(&self, key: &Key, range: Range<u64>) -> Result<ObjectReader>;

    /// The size of an object in bytes, or `NotFound`.
    async fn size(&self, key: &Key) -> Result<u64>;

    /// Removes objects durably. An object that does not exist counts as removed. After an error
    /// some objects may be removed and others not; call again with the same keys to continue.
    async fn delete(&self, keys: &[Key]) -> Result<()>;

    /// All objects, in no order. An object that appears or is removed meanwhile may be listed or
    /// not.
    async fn list(&self) -> Result<ObjectList>;

    /// The store's own multipart uploads, if it supports them.
    fn multipart(&self) -> Option<&dyn Multipart> {
        None
    }
}

/// Multipart uploads of a store. Anyone who knows key, upload and number can send a part, from any
/// process. Nothing can be read under the key before [`complete`](Self::complete). An upload takes
/// up space until it is completed or aborted, so the caller must record it.
#[async_trait]
pub trait Multipart: Send + Sync {
    /// Minimum part size in bytes; the last part may be smaller.
    fn min_part_size(&self) -> u64;

    /// Maximum part size in bytes.
    fn max_part_size(&self) -> u64;

    /// Whether parts are written directly into a preallocated file. Such a store requires the
    /// [`PartLayout`] of an upload and reserves space for all of it. It keeps no list of parts: on
    /// completion it relies on the caller that all of them were sent.
    fn is_preallocated(&self) -> bool {
        false
    }

    /// Begins a multipart upload and returns its id, at most 1,024 bytes. `layout` is the part
    /// layout, if it is known. Fails with `Full`, without creating an upload, if the store has no
    /// space for the whole upload.
    async fn begin(&self, key: &Key, layout: Option<PartLayout>) -> Result<String>;

    /// Like [`begin`](Self::begin), but a preallocating store only checks that there is space for
    /// all of it now, without reserving it. A later part may still fail with `Full`.
    async fn begin_unreserved(&self, key: &Key, layout: PartLayout) -> Result<String> {
        self.begin(key, Some(layout)).await
    }

    /// Begins part `number` (1 to 10,000) of `size` bytes. [`ObjectWriter::publish`] returns the
    /// tag of the part and replaces an earlier part with this number. If there is no such upload,
    /// the writer fails with `NotFound`.
    async fn create_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        size: u64,
    ) -> Result<Box<dyn ObjectWriter>>;

    /// Makes an object of the parts with these numbers and tags, in this order, durably and
    /// atomically. Drops all other parts. Fails with `NotFound` if there is no such upload, perhaps
    /// because it was completed before; some stores return `Ok` then. Fails with `Mismatch`, and
    /// changes nothing, if a part is missing or has another tag.
    async fn complete(&self, key: &Key, upload: &str, parts: &[(u32, String)]) -> Result<()>;

    /// Drops an upload with all its parts. An upload that does not exist counts as dropped.
    async fn abort(&self, key: &Key, upload: &str) -> Result<()>;

    /// Numbers and tags of the parts of an upload, ordered by number. Empty if the store keeps no
    /// list of parts. Fails with `NotFound` if there is no such upload.
    async fn list_parts(&self, key: &Key, upload: &str) -> Result<Vec<(u32, String)>>;

    /// Drops every upload for a key, including those whose ids are not recorded. `part_size` is
    /// that of the [`PartLayout`] with which uploads for this key are begun, if they have one.
    async fn abort_all(&self, key: &Key, _part_size: Option<u64>) -> Result<()> {
        let mut uploads = self.list_uploads(Some(key)).await?;
        while let Some(upload) = uploads.try_next().await? {
            self.abort(key, &upload.id).await?;
        }
        Ok(())
    }

    /// The uploads that are neither completed nor aborted, of one key or of the whole store, in no
    /// order. May scan the whole store: never call it for a request or for a task of one file.
    async fn list_uploads(&self, key: Option<&Key>) -> Result<UploadList>;
}

/// An upload that is neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListedUpload {
    /// Name of the future object. Not necessarily a [`Key`]: other programs may have begun the
    /// upload.
    pub name: String,
    /// The store's id of the upload.
    pub id: String,
}

/// A stream of the uploads of a store.
pub type UploadList = Pin<Box<dyn Stream<Item = Result<ListedUpload>> + Send>>;

/// How content of a known size is divided into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartLayout {
    /// Bytes of all parts.
    pub size: u64,
    /// Size of each part except the last, in bytes. Not 0.
    pub part_size: u64,
}

impl PartLayout {
    /// Number of parts; empty content is one empty part.
    pub fn parts(self) -> u64 {
        self.size.div_ceil(self.part_size).max(1)
    }

    /// Byte range of part `number` (1-based) in the content. `None` if there is no such part.
    pub fn range(self, number: u32) -> Option<Range<u64>> {
        let index = u64::from(number).checked_sub(1).filter(|index| *index < self.parts())?;
        let start = index * self.part_size;
        Some(start..self.size.min(start.saturating_add(self.part_size)))
    }
}

/// What is known about the length of content before it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeHint {
    /// Exactly this many bytes; any other length is an error.
    Exact(u64),
    /// Probably at most this many bytes.
    AtMost(u64),
    /// Nothing is known.
    Unknown,
}

impl SizeHint {
    /// The probable maximum in bytes.
    pub const fn at_most(self) -> Option<u64> {
        match self {
            Self::Exact(size) | Self::AtMost(size) => Some(size),
            Self::Unknown => None,
        }
    }
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListedObject {
    /// `<folder>/<name>`. Not necessarily a [`Key`]: other programs may have put objects there.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}

/// A stream of the objects of a store.
pub type ObjectList = Pin<Box<dyn Stream<Item = Result<ListedObject>> + Send>>;

/// An object being written. Dropping it before [`publish`](Self::publish) removes what was written.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Selects the digests that [`finish`](Self::finish) returns; call it before the first write.
    /// The default is [`DigestSelection::MD5`], which API v0 needs.
    fn select_digests(&mut self, selection: DigestSelection);

    /// Appends bytes. Returns when the writer can take more, not when the bytes are stored: memory
    /// stays bounded by what the implementation buffers (1 MiB; more if the size is not known, see
    /// the implementations). An error is final.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Appends another object of the same store, of `size` bytes, without copying it through the
    /// memory of this process. Fails with `NotFound` or `Truncated` if it is missing or has another
    /// size; an error is final. Returns `false`, and appends nothing, if the store does not support
    /// this; the caller then reads the object and writes its bytes.
    async fn append_object(&mut self, _key: &Key, _size: u64) -> Result<bool> {
        Ok(false)
    }

    /// Ends the content and returns its digests, which were computed off the reactor while it
    /// arrived.
    async fn finish(&mut self) -> Result<Digests>;

    /// Makes the finished object appear under its key, durably and atomically, and returns the
    /// store's tag for it, which may be empty. Call [`finish`](Self::finish) first. After an error
    /// the object may have appeared, or may appear later.
    async fn publish(self: Box<Self>) -> Result<String>;
}

/// The bytes of a range, in order and exactly as many as the range has. An error is final.
pub type ObjectReader = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;
