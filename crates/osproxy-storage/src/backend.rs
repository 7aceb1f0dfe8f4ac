use std::{ops::Range, pin::Pin, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

use crate::{Digests, Key, Result, Wanted};

/// A store of objects.
///
/// Implementations take care of their own locking: every method may be called from any task at any time.
/// The caller validates names, limits and permissions, and sees to it that no key is written again after
/// a row has named it; an implementation must still survive two writers of one key: the later one wins whole, or gets
/// `Exists`.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The name that is recorded beside every blob, such as `local`.
    fn name(&self) -> &'static str;

    /// Sees to it that objects can be put somewhere: finds the places, and makes those that are missing, if it may.
    /// For stores that are somewhere else; `NotFound` when something is missing.
    async fn prepare(&self, _make: bool) -> Result<()> {
        Ok(())
    }

    /// What time it is where the store is, to the second, if it is somewhere else and says so. Needs no credentials: an error
    /// means that the store was not reached, or that what was reached is none.
    async fn clock(&self) -> Result<Option<SystemTime>> {
        Ok(None)
    }

    /// Begins an object. Nothing can be read under `key` until [`ObjectWriter::publish`].
    /// `size` must not be trusted with space. What turns out not to be [`SizeHint::Exact`] may be refused by the writer.
    async fn create(&self, key: &Key, size: SizeHint) -> Result<Box<dyn ObjectWriter>>;

    /// Opens the bytes `range` of an object. A reader keeps its object: when that is deleted or replaced meanwhile, it
    /// goes on to the end undisturbed, or fails; it never goes on with other bytes.
    ///
    /// `NotFound` when there is no such object. A range beyond the end gives `Truncated`, here or from the reader.
    async fn open(&self, key: &Key, range: Range<u64>) -> Result<ObjectReader>;

    /// The size of an object in bytes, or `NotFound`.
    async fn size(&self, key: &Key) -> Result<u64>;

    /// Removes objects, durably. One that does not exist is removed already: `Ok`. After an error some of them may
    /// be removed and others not; the same call again goes on.
    async fn delete(&self, keys: &[Key]) -> Result<()>;

    /// Everything that can be read, in no order. What appears or goes meanwhile may be told or not.
    async fn list(&self) -> Result<ObjectList>;

    /// How objects are sent in parts that the store itself puts together, if it can do that.
    fn multipart(&self) -> Option<&dyn Multipart> {
        None
    }
}

/// The store's own uploads in parts. Whoever knows key, upload and number can send a part, through any process; nothing
/// can be read under the key before [`complete`](Self::complete). What an upload holds takes room until it is completed or
/// aborted: the caller remembers it.
#[async_trait]
pub trait Multipart: Send + Sync {
    /// Smallest part, in bytes, but for the last one of an upload.
    fn min_part_size(&self) -> u64;

    /// Largest part, in bytes.
    fn max_part_size(&self) -> u64;

    /// Whether parts have their places in the object from the start. Such a store takes only uploads of a known
    /// [`Shape`], keeps the room for them, and believes the caller that all parts have been sent when it completes them: it
    /// keeps no list of them.
    fn has_places(&self) -> bool {
        false
    }

    /// Begins an upload, of this shape if that is known, and gives its name, at most 1,024 bytes. `Full`: there is no room
    /// for all of it, and nothing was begun.
    async fn begin(&self, key: &Key, shape: Option<Shape>) -> Result<String>;

    /// As [`begin`](Self::begin), without keeping room, where parts have places: each part finds out whether there is some.
    async fn begin_unreserved(&self, key: &Key, shape: Shape) -> Result<String> {
        self.begin(key, Some(shape)).await
    }

    /// Begins part `number` (1 to 10,000) of `size` bytes. What [`ObjectWriter::publish`] returns is the part's tag. A part
    /// that was there under the number is replaced at that moment. `NotFound` from the writer: there is no such upload.
    async fn create_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        size: u64,
    ) -> Result<Box<dyn ObjectWriter>>;

    /// Makes the object of parts with these numbers and tags, in this order, durably and at once; other parts are dropped.
    /// `NotFound`: there is no such upload, perhaps because it was completed before; a store may also say `Ok` to that. `Mismatch`: some part is not there
    /// under that tag; nothing has changed.
    async fn complete(&self, key: &Key, upload: &str, parts: &[(u32, String)]) -> Result<()>;

    /// Drops an upload with all its parts. One that does not exist is dropped already: `Ok`.
    async fn abort(&self, key: &Key, upload: &str) -> Result<()>;

    /// The parts that an upload has: their numbers and tags, by their numbers; none, where no list of them is kept.
    /// `NotFound`: there is no such upload.
    async fn parts(&self, key: &Key, upload: &str) -> Result<Vec<(u32, String)>>;

    /// Drops every upload for a key, also one whose name nobody knows. `part_size`: of the [`Shape`] that uploads for this
    /// key are begun with, if it has one.
    async fn abort_all(&self, key: &Key, _part_size: Option<u64>) -> Result<()> {
        let mut uploads = self.uploads(Some(key)).await?;
        while let Some(upload) = uploads.try_next().await? {
            self.abort(key, &upload.id).await?;
        }
        Ok(())
    }

    /// The uploads that are neither completed nor aborted, all of them or those for one key, in no order. May look through
    /// everything that the store has: never for a request, nor for a task of one file.
    async fn uploads(&self, key: Option<&Key>) -> Result<UploadList>;
}

/// An upload that a store has not put together yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListedUpload {
    /// The name of the object to be, which need not be a [`Key`]: others may have begun it.
    pub name: String,
    /// What the store calls the upload.
    pub id: String,
}

/// The uploads of a store.
pub type UploadList = Pin<Box<dyn Stream<Item = Result<ListedUpload>> + Send>>;

/// How content is divided into parts before it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of all parts together.
    pub size: u64,
    /// Bytes of each part but the last, which has the rest. Not 0.
    pub part_size: u64,
}

impl Shape {
    /// How many parts there are. Nothing is one empty part.
    pub fn parts(self) -> u64 {
        self.size.div_ceil(self.part_size).max(1)
    }

    /// Where in the content the part of this number (from 1 on) lies. `None`: there is no such part.
    pub fn range(self, number: u32) -> Option<Range<u64>> {
        let index = u64::from(number).checked_sub(1).filter(|index| *index < self.parts())?;
        let start = index * self.part_size;
        Some(start..self.size.min(start.saturating_add(self.part_size)))
    }
}

/// What is known of the length of content before it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeHint {
    /// So many bytes, or the content is broken.
    Exact(u64),
    /// Not more than so many bytes, as far as is known.
    AtMost(u64),
    /// Nothing.
    Unknown,
}

impl SizeHint {
    /// How many bytes to expect at most, as far as is known.
    pub const fn at_most(self) -> Option<u64> {
        match self {
            Self::Exact(size) | Self::AtMost(size) => Some(size),
            Self::Unknown => None,
        }
    }
}

/// What lies in a store under one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listed {
    /// `<folder>/<name>`, which need not be a [`Key`]: others may have put things there.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// The objects of a store.
pub type ObjectList = Pin<Box<dyn Stream<Item = Result<Listed>> + Send>>;

/// An object that is being written. Dropping it at any moment before [`publish`](Self::publish) removes
/// what was written, without the caller's help.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Says which digests [`finish`](Self::finish) is to give, before the first byte. Otherwise it gives those that API v0
    /// needs ([`Wanted::MD5`]).
    fn want(&mut self, wanted: Wanted);

    /// Appends bytes. Returns when it can take more, not when they are stored: memory stays bounded by what
    /// implementations buffer (1 MiB; where the size is not known before, more: see there). An error is final.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Appends another object of the same store, which has `size` bytes, without moving it through this process's
    /// memory. `NotFound` or `Truncated` when it is not there in this size; an error is final. `false`: this store
    /// cannot do that, and nothing was appended; who reads the object and writes its bytes loses nothing.
    async fn append_object(&mut self, _key: &Key, _size: u64) -> Result<bool> {
        Ok(false)
    }

    /// Says that all bytes are there, and returns their digests, computed in passing off the reactor.
    async fn finish(&mut self) -> Result<Digests>;

    /// Makes the finished object appear under its key, durably and at once, and gives the tag that the store has for it,
    /// which may be empty. Call [`finish`](Self::finish) first. After an error the object may have appeared, or appear
    /// later.
    async fn publish(self: Box<Self>) -> Result<String>;
}

/// The bytes of a range, in order, exactly as many as the range has. An error is final.
pub type ObjectReader = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;
