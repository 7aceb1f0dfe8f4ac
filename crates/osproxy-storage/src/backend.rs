//! The traits that stores implement.

use std::{ops::Range, pin::Pin, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

use crate::{DigestSelection, Digests, Error, ErrorKind, Key, Result};

/// A store of objects.
///
/// Callers can call all methods concurrently; implementations do their own locking. The caller
/// validates names, limits and permissions, and uses a new key for every object. If two writers
/// publish under the same key anyway, the second writer either replaces the object as a whole or
/// fails with `Exists`.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Name of the backend, such as `local`. Store names in the database begin with this name.
    fn name(&self) -> &'static str;

    /// Checks that the buckets of a remote store exist. Creates missing buckets if `create_missing`
    /// is set; otherwise fails with `NotFound` if a bucket is missing. Other stores do nothing.
    async fn prepare(&self, _create_missing: bool) -> Result<()> {
        Ok(())
    }

    /// The current time of the clock of a remote store, with a precision of one second. `None` if
    /// the store does not report the time. Needs no credentials: an error means that the server is
    /// unreachable or is not an object store.
    async fn clock(&self) -> Result<Option<SystemTime>> {
        Ok(None)
    }

    /// Begins an object. Nothing can be read under `key` until [`ObjectWriter::publish`].
    /// Implementations must not reserve disk space for the whole `size` in advance, because `size`
    /// is only the client's claim. The writer can fail if the content does not match a
    /// [`SizeHint::Exact`].
    async fn create(&self, key: &Key, size: SizeHint) -> Result<Box<dyn ObjectWriter>>;

    /// Opens a byte range of an object. If the object is deleted or replaced while it is read, the
    /// reader either continues with the bytes of the opened object or fails; it never returns bytes
    /// of another object.
    ///
    /// Fails with `NotFound` if there is no such object. If the range exceeds the object, either
    /// this call or the reader fails with `Truncated`.
    async fn open(&self, key: &Key, range: Range<u64>) -> Result<ObjectReader>;

    /// The size of an object in bytes. Fails with `NotFound` if there is no such object.
    async fn size(&self, key: &Key) -> Result<u64>;

    /// Removes objects durably. An object that does not exist counts as removed. If the call fails,
    /// some of the objects may already be removed. Call again with the same keys to remove the
    /// others.
    async fn delete(&self, keys: &[Key]) -> Result<()>;

    /// Lists all objects, in no particular order. An object that is created or removed during the
    /// listing may or may not be listed.
    async fn list(&self) -> Result<ObjectList>;

    /// Access to the multipart uploads of the store. `None` if the store does not support them.
    fn multipart(&self) -> Option<&dyn Multipart> {
        None
    }

    /// Access to the packs of the store. `None` if the store has no packs.
    fn packs(&self) -> Option<&dyn Packs> {
        None
    }
}

/// The packs of a store. A pack holds many small objects. [`Key::pack_location`] tells the key of a
/// packed object from other keys. Packed objects are read like other objects, but are not listed.
/// Deleting a packed object does nothing: the object is removed with its pack.
#[async_trait]
pub trait Packs: Send + Sync {
    /// Maximum size of packed content, in bytes.
    fn max_size(&self) -> u64;

    /// Stores content durably and returns its object. The caller then commits a row with the key.
    /// Content without a row is dead space.
    async fn append(&self, content: PackedContent) -> Result<PackedObject>;

    /// Ends a pack, if it is the newest: the next content goes to another pack.
    async fn seal(&self, pack: u32) -> Result<()>;

    /// Returns some records of a pack, from a position on; 0 is the start. A
    /// record is an object only if a row has its key: its content may be incomplete, or the record
    /// may be part of the content of an object.
    /// Fails with `Busy` if the pack is the newest or a [`PackedObject`] in it exists, and with
    /// `NotFound` if there is no such pack.
    async fn records(&self, pack: u32, from: u64) -> Result<PackPage>;

    /// Removes a pack durably, whatever it contains. A pack that does not exist counts as removed.
    /// Fails with `Busy` if a [`PackedObject`] in it exists, and always fails for the newest pack.
    async fn remove(&self, pack: u32) -> Result<()>;
}

/// Small content to store in a pack.
#[derive(Clone, Debug)]
pub struct PackedContent {
    /// Id of the blob. The record contains it.
    pub blob_id: i64,
    /// BLAKE3 of the content. The record contains it.
    pub blake3: [u8; 32],
    /// The content.
    pub bytes: Bytes,
    /// Whether this is a copy of an object in another pack, which makes it possible to remove that
    /// pack. Copies may use the disk space that must stay free.
    pub is_copy: bool,
}

/// An object that was stored in a pack. Keep it until the row of the object is committed: the pack
/// is not compacted before.
#[derive(Debug)]
pub struct PackedObject {
    /// Key of the object.
    pub key: Key,
    pub(crate) _pin: Arc<()>,
}

/// Records of a pack.
#[derive(Clone, Debug)]
pub struct PackPage {
    /// The records, ordered by position.
    pub records: Vec<PackRecord>,
    /// Position of the next page. `None` if there are no more records.
    pub next: Option<u64>,
}

/// A record of a pack.
#[derive(Clone, Debug)]
pub struct PackRecord {
    /// Key of the object.
    pub key: Key,
    /// Id of the blob for which the object was stored.
    pub blob_id: i64,
    /// Size of the content, in bytes.
    pub length: u64,
    /// BLAKE3 of the content when it was stored.
    pub blake3: [u8; 32],
}

/// The multipart uploads of a store. Any process that knows the key, the upload id and the part
/// number can send a part. Nothing can be read under the key before [`complete`](Self::complete).
/// An upload occupies space until it is completed or aborted, so the caller must record every
/// upload.
#[async_trait]
pub trait Multipart: Send + Sync {
    /// Minimum part size in bytes; the last part may be smaller.
    fn min_part_size(&self) -> u64;

    /// Maximum part size in bytes.
    fn max_part_size(&self) -> u64;

    /// Whether parts are written directly into a preallocated file. Such a store requires the part
    /// size of every upload. The store keeps no list of parts: the caller must not complete an
    /// upload before all parts were sent.
    fn is_preallocated(&self) -> bool {
        false
    }

    /// Begins a multipart upload and returns its id, which has at most 1,024 bytes. `layout` is the
    /// part layout, if it is known. A store with preallocated files requires the layout, and
    /// reserves disk space for all parts; it fails with `Full`, without creating an upload, if it
    /// has no space for them.
    async fn begin(&self, key: &Key, layout: Option<PartLayout>) -> Result<String>;

    /// Like [`begin`](Self::begin), but a store with preallocated files reserves nothing: it only
    /// checks that there is enough space for all parts now. Writing a part can still fail with
    /// `Full` later.
    async fn begin_unreserved(&self, key: &Key, layout: PartLayout) -> Result<String> {
        self.begin(key, Some(layout)).await
    }

    /// Begins an upload of unknown size, with slots of `slot_size` bytes. Only stores with
    /// preallocated files support this: the file grows with its parts. Nothing is reserved, and
    /// writing a part can fail with `Full`.
    async fn begin_growing(&self, key: &Key, _slot_size: u64) -> Result<String> {
        Err(Error::new(ErrorKind::Other, "store", "begin upload").with_message(key.to_string()))
    }

    /// Begins part `number` (1 to 10,000), which has `size` bytes. [`ObjectWriter::publish`]
    /// returns the tag of the part, and replaces an earlier part with the same number. If there is
    /// no such upload, the writer fails with `NotFound`.
    async fn create_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        size: u64,
    ) -> Result<Box<dyn ObjectWriter>>;

    /// Combines the parts with these numbers and tags, in this order, into the object, durably and
    /// atomically. Drops all other parts.
    ///
    /// A store with preallocated files ignores `parts`, and truncates the file to `end` bytes. It
    /// fails with `Mismatch` if the file is shorter, and with `Exists` if there is an object with
    /// this key. Later writes to parts of the upload fail with `NotFound`. Other stores ignore
    /// `end`.
    ///
    /// Fails with `NotFound` if there is no such upload. If the upload was completed before, some
    /// stores return `Ok` instead. Fails with `Mismatch`, and changes nothing, if a part is missing
    /// or has another tag.
    async fn complete(&self, key: &Key, upload: &str, parts: &[(u32, String)], end: u64) -> Result<()>;

    /// Opens a byte range of an upload that is neither completed nor aborted, like
    /// [`Backend::open`]. Only stores with preallocated files support this. Only the bytes of parts
    /// that were published are meaningful.
    async fn open_incomplete(&self, key: &Key, _upload: &str, _range: Range<u64>) -> Result<ObjectReader> {
        Err(Error::new(ErrorKind::Other, "store", "open upload").with_message(key.to_string()))
    }

    /// Frees the disk space of a part whose content is not needed. Waits for a running writer of
    /// the part, so drop the writer first. Only stores with preallocated files support this; others
    /// do nothing. A part or an upload that does not exist counts as discarded.
    async fn discard_part(&self, _key: &Key, _upload: &str, _number: u32) -> Result<()> {
        Ok(())
    }

    /// Drops an upload with all its parts. An upload that does not exist counts as dropped.
    async fn abort(&self, key: &Key, upload: &str) -> Result<()>;

    /// Numbers and tags of the parts of an upload, ordered by number. Empty if the store keeps no
    /// list of parts. Fails with `NotFound` if there is no such upload.
    async fn list_parts(&self, key: &Key, upload: &str) -> Result<Vec<(u32, String)>>;

    /// Drops every upload for a key, including uploads whose ids are not recorded. `part_size` is
    /// the part size or slot size of the uploads; `None` if they have neither.
    async fn abort_all(&self, key: &Key, _part_size: Option<u64>) -> Result<()> {
        let mut uploads = self.list_uploads(Some(key)).await?;
        while let Some(upload) = uploads.try_next().await? {
            self.abort(key, &upload.id).await?;
        }
        Ok(())
    }

    /// Lists the uploads that are neither completed nor aborted, in no particular order. Lists the
    /// uploads for `key`, or all uploads in the store if `key` is `None`. Even for one key, some
    /// stores scan all objects; to drop the uploads for a key, use [`abort_all`](Self::abort_all).
    async fn list_uploads(&self, key: Option<&Key>) -> Result<UploadList>;
}

/// An upload that is neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListedUpload {
    /// Name of the object that the upload will become. Not necessarily a [`Key`]: other programs
    /// may have begun the upload.
    pub name: String,
    /// The store's id of the upload.
    pub id: String,
}

/// A stream of the uploads of a store.
pub type UploadList = Pin<Box<dyn Stream<Item = Result<ListedUpload>> + Send>>;

/// How content of a known size is divided into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartLayout {
    /// Total size of all parts, in bytes.
    pub size: u64,
    /// Size of each part except the last, in bytes. Not 0.
    pub part_size: u64,
}

impl PartLayout {
    /// Number of parts. Empty content has one empty part.
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

/// What is known about the length of content before the content arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeHint {
    /// Exactly this many bytes. The writer can fail if the content has another length.
    Exact(u64),
    /// An estimate of the maximum, in bytes. Writers must also accept content that is longer.
    AtMost(u64),
    /// Nothing is known.
    Unknown,
}

impl SizeHint {
    /// The exact size or the estimate of the maximum, in bytes. `None` if nothing is known.
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
    /// Name of the object: `<folder>/<name>` if osproxy stored it. Other programs may have stored
    /// objects whose names are not valid [`Key`]s.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}

/// A stream of the objects of a store.
pub type ObjectList = Pin<Box<dyn Stream<Item = Result<ListedObject>> + Send>>;

/// Writes an object or a part. Dropping the writer before [`publish`](Self::publish) discards what
/// was written.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Selects the digests that [`finish`](Self::finish) returns. Call this before the first write.
    /// The default is [`DigestSelection::MD5`], which API v0 needs.
    fn select_digests(&mut self, selection: DigestSelection);

    /// Appends bytes. Returns when the writer has room for more bytes. At that time, the appended
    /// bytes may not be stored yet. A writer buffers about 1 MiB. If the exact size is not known,
    /// the writer of a remote store buffers a whole part. After an error, the writer can only be
    /// dropped.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Skips bytes that are in the part already, because an earlier writer was
    /// [suspended](Self::suspend): hashes them, and writes nothing. Call this before the first
    /// write. Only parts in preallocated files support this.
    async fn skip(&mut self, _bytes: Bytes) -> Result<()> {
        Err(Error::new(ErrorKind::Other, "store", "skip"))
    }

    /// Appends a byte range of another object of the same store. Fails with `NotFound` if the
    /// object is missing, and with `Truncated` if it is too short. After an error, the writer can
    /// only be dropped.
    ///
    /// Returns `false`, and appends nothing, if the store does not support this. The caller then
    /// reads the object and writes its bytes.
    async fn append_object(&mut self, _key: &Key, _range: Range<u64>) -> Result<bool> {
        Ok(false)
    }

    /// Ends the content and returns its digests. The writer computes the digests while the content
    /// arrives, without blocking the async runtime. Backends that check [`SizeHint::Exact`] fail
    /// here if the content is shorter.
    async fn finish(&mut self) -> Result<Digests>;

    /// Makes the finished object appear under its key, durably and atomically. Returns the store's
    /// tag for the object, which may be empty. Call [`finish`](Self::finish) first. After an error,
    /// the object may have appeared, or may appear later.
    async fn publish(self: Box<Self>) -> Result<String>;

    /// Ends a part early: makes the bytes that were written so far durable, so that a later writer
    /// can [`skip`](Self::skip) them and continue. Call [`finish`](Self::finish) first. After
    /// an error, the bytes may be durable or not. Only parts in preallocated files support this.
    async fn suspend(self: Box<Self>) -> Result<()> {
        Err(Error::new(ErrorKind::Other, "store", "suspend part"))
    }
}

/// A stream of exactly the bytes of a range, in order. After an error, the stream can only be
/// dropped.
pub type ObjectReader = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;
