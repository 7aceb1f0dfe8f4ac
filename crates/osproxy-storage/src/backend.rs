use std::{ops::Range, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use crate::{Digests, Key, Result};

/// A store of objects.
///
/// Implementations take care of their own locking: every method may be called from any task at any time.
/// The caller validates names, limits and permissions, and sees to it that no key is written again after
/// a row has named it; an implementation must still survive two writers of one key (the later one wins whole).
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The name that is recorded beside every blob, such as `local`.
    fn name(&self) -> &'static str;

    /// Begins an object. Nothing can be read under `key` until [`ObjectWriter::publish`].
    /// `size_hint` is how many bytes to expect at most; it may be wrong and must not be trusted with space.
    async fn create(&self, key: &Key, size_hint: Option<u64>) -> Result<Box<dyn ObjectWriter>>;

    /// Opens the bytes `range` of an object. A reader keeps its object: it goes on to the end undisturbed
    /// when the object is deleted or replaced meanwhile.
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
    /// Appends bytes. Returns when it can take more, not when they are stored: memory stays bounded by what
    /// implementations buffer (at most 1 MiB). An error is final.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Appends another object of the same store, which has `size` bytes, without moving it through this process's
    /// memory where the store can. `NotFound` or `Truncated` when it is not there in this size. An error is final.
    async fn append_object(&mut self, key: &Key, size: u64) -> Result<()>;

    /// Says that all bytes are there, and returns their digests, computed in passing off the reactor.
    async fn finish(&mut self) -> Result<Digests>;

    /// Makes the finished object appear under its key, durably and at once. Call [`finish`](Self::finish) first.
    async fn publish(self: Box<Self>) -> Result<()>;
}

/// The bytes of a range, in order, exactly as many as the range has. An error is final.
pub type ObjectReader = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;
