//! Reads the content of a file, even while a merge or a move relocates its bytes.

use std::{
    collections::VecDeque,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, future::BoxFuture};
use osproxy_meta::{ContentLayout, StoredFile, StoredPart};
use osproxy_storage::{self as storage, Backend, ErrorKind, Key, Multipart, ObjectReader};
use osproxy_types::uid::Uid;

use super::Objects;
use crate::{Error, Result};

/// Maximum lookups of a file whose bytes keep moving, before the reader fails.
const MAX_TRIES: usize = 3;

impl Objects {
    /// Opens the bytes `range` of a file. The range must lie within the size of the file. Returns
    /// `None` if the file is gone.
    ///
    /// The reader continues when the bytes are relocated: from parts into one object, or to another
    /// object with the same content.
    pub async fn open_content(
        self: &Arc<Self>,
        file: &StoredFile,
        range: Range<u64>,
    ) -> Result<Option<ContentReader>> {
        if let Some(content) = self.hot_content.get(file.content.blob_id) {
            return Ok(Some(ContentReader::cached(&content, &range)));
        }
        match open(self, file, range.clone()).await? {
            Err(error) if error.kind == ErrorKind::NotFound => {}
            opened => return Ok(Some(opened?)),
        }
        // The bytes may have been relocated after the row was cached.
        self.meta.files.evict(file.uid);
        let Some(file) = self.meta.files.complete_uncached(file.uid).await? else {
            return Ok(None);
        };
        Ok(Some(open(self, &file, range).await??))
    }
}

/// Opens the bytes of a file at their last known location.
async fn open(
    objects: &Arc<Objects>,
    file: &StoredFile,
    range: Range<u64>,
) -> Result<storage::Result<ContentReader>> {
    let store = objects.stores.get(&file.content.store)?;
    if let ContentLayout::Whole(key) = &file.content.layout
        && range == (0..file.content.size)
        && file.content.digests.is_some()
        && objects.hot_content.accepts(file.content.size)
    {
        let content = match store.open(key, range.clone()).await {
            Ok(reader) => reader.try_collect::<Vec<_>>().await,
            Err(error) => Err(error),
        };
        return Ok(content.map(|mut chunks| {
            let content = if chunks.len() == 1 { chunks.swap_remove(0) } else { chunks.concat().into() };
            // Damaged content is not kept in memory after its object was repaired.
            if file.content.digests.is_some_and(|known| known.blake3 == *blake3::hash(&content).as_bytes()) {
                // A copy: the buffers of a store are larger, and are used again.
                objects.hot_content.insert(file.content.blob_id, Bytes::copy_from_slice(&content));
            }
            ContentReader::cached(&content, &range)
        }));
    }
    Ok(match &file.content.layout {
        // If an object on a local disk is removed, an open reader can still read it.
        ContentLayout::Whole(key) if store.multipart().is_none_or(Multipart::is_preallocated) => {
            store.open(key, range).await.map(ContentReader::Object)
        }
        ContentLayout::Whole(key) => {
            let pieces = VecDeque::from([ObjectRange { key: key.clone(), range: range.clone() }]);
            RelocatingReader::open(objects, file, range, pieces).await?.map(ContentReader::Relocating)
        }
        ContentLayout::Parts => {
            let parts = objects.meta.blobs.parts(file.content.blob_id).await?;
            let Some(pieces) = object_ranges(parts, &range, file.content.size) else {
                // The parts are being removed, so the bytes have been relocated.
                return Ok(Err(storage::Error::not_found(store.name(), "open")));
            };
            RelocatingReader::open(objects, file, range, pieces).await?.map(ContentReader::Relocating)
        }
    })
}

/// A stream of a byte range of a file. Yields all bytes of the range, or ends after an error.
pub enum ContentReader {
    /// Content in memory, until it is read.
    Cached(Option<Bytes>),
    /// Reads one object.
    Object(ObjectReader),
    /// Reads one or more objects in order. If an object is removed, finds the new location of its
    /// bytes.
    Relocating(Box<RelocatingReader>),
}

impl ContentReader {
    /// A reader for a range of content in memory.
    fn cached(content: &Bytes, range: &Range<u64>) -> Self {
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let bounds = bounds.filter(|(start, end)| start < end && *end <= content.len());
        Self::Cached(bounds.map(|(start, end)| content.slice(start..end)))
    }
}

impl Stream for ContentReader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            Self::Cached(content) => Poll::Ready(content.take().map(Ok)),
            Self::Object(object) => object.as_mut().poll_next(cx).map_err(Error::from),
            Self::Relocating(parts) => parts.poll_next_unpin(cx),
        }
    }
}

/// A range of an object to read.
#[derive(Clone)]
struct ObjectRange {
    key: Key,
    range: Range<u64>,
}

/// The first bytes of a range, and a reader for the rest. The store starts to send only when the
/// first bytes are read.
type OpenedRange = storage::Result<(Option<Bytes>, ObjectReader)>;

/// The next range, while it is being opened.
struct NextRange {
    range: ObjectRange,
    opening: BoxFuture<'static, OpenedRange>,
    /// Whether the range was opened ahead: before the previous range was read to its end.
    is_ahead: bool,
}

impl NextRange {
    fn open(store: &Arc<dyn Backend>, piece: ObjectRange, is_ahead: bool) -> Self {
        let opening = Box::pin(open_range(store.clone(), piece.clone()));
        Self { range: piece, opening, is_ahead }
    }

    /// Whether to open the range again after this error. After `Busy`, the reader tries again until
    /// it gets a permit of the store or the client disconnects. If the range was opened ahead, any
    /// retryable error is a reason to try again: the cause may be the permit that this reader still
    /// held for the previous range.
    fn should_reopen(&self, error: &storage::Error) -> bool {
        error.kind == ErrorKind::Busy || (self.is_ahead && error.retryable)
    }
}

/// Reads objects one after the other, and opens the next object ahead. If an object is gone, looks
/// up where its bytes are now and continues there.
pub struct RelocatingReader {
    objects: Arc<Objects>,
    store: Arc<dyn Backend>,
    uid: Uid,
    /// The bytes of the file that still have to be read.
    remaining: Range<u64>,
    current: Option<ObjectReader>,
    next: Option<NextRange>,
    ranges: VecDeque<ObjectRange>,
    relocating: Option<BoxFuture<'static, Result<ContentReader>>>,
    relocated: Option<Box<ContentReader>>,
}

impl RelocatingReader {
    /// Opens the first object range, and starts to open the second.
    async fn open(
        objects: &Arc<Objects>,
        file: &StoredFile,
        range: Range<u64>,
        pieces: VecDeque<ObjectRange>,
    ) -> Result<storage::Result<Box<Self>>> {
        let store = objects.stores.get(&file.content.store)?;
        let mut reader = Self {
            objects: objects.clone(),
            store: store.clone(),
            uid: file.uid,
            remaining: range,
            current: None,
            next: None,
            ranges: pieces,
            relocating: None,
            relocated: None,
        };
        if let Some(first) = reader.ranges.pop_front() {
            match store.open(&first.key, first.range).await {
                Ok(first) => reader.current = Some(first),
                Err(error) => return Ok(Err(error)),
            }
        }
        reader.open_ahead();
        Ok(Ok(Box::new(reader)))
    }

    fn open_ahead(&mut self) {
        self.next = self.ranges.pop_front().map(|piece| NextRange::open(&self.store, piece, true));
    }

    /// Starts to look up where the remaining bytes are now.
    fn relocate(&mut self) {
        let (objects, uid, rest) = (self.objects.clone(), self.uid, self.remaining.clone());
        self.relocating = Some(Box::pin(async move {
            for _ in 0..MAX_TRIES {
                objects.meta.files.evict(uid);
                let file = objects.meta.files.complete_uncached(uid).await?;
                let file = file.ok_or_else(|| Error::internal("the file was removed while it was read"))?;
                match open(&objects, &file, rest.clone()).await? {
                    Err(error) if error.kind == ErrorKind::NotFound => {}
                    opened => return Ok(opened?),
                }
            }
            Err(Error::internal("the content of the file was not found in the store"))
        }));
    }

    fn poll_range(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            if let Some(moved) = &mut self.relocated {
                return moved.poll_next_unpin(cx);
            }
            if let Some(moving) = &mut self.relocating {
                let found = ready!(moving.as_mut().poll(cx));
                self.relocating = None;
                self.relocated = Some(Box::new(found?));
                continue;
            }
            if let Some(reading) = &mut self.current {
                match reading.as_mut().poll_next(cx) {
                    Poll::Ready(None) => self.current = None,
                    // The object was removed, and this store cannot read a removed object to its
                    // end.
                    Poll::Ready(Some(Err(error))) if error.kind == ErrorKind::NotFound => {
                        self.relocate();
                        continue;
                    }
                    Poll::Ready(bytes) => return Poll::Ready(bytes.map(|bytes| bytes.map_err(Error::from))),
                    Poll::Pending => {
                        self.poll_ahead(cx);
                        return Poll::Pending;
                    }
                }
            }
            let Some(next) = &mut self.next else {
                return Poll::Ready(None);
            };
            match ready!(next.opening.as_mut().poll(cx)) {
                Ok((first, reader)) => {
                    self.current = Some(reader);
                    self.open_ahead();
                    if let Some(first) = first {
                        return Poll::Ready(Some(Ok(first)));
                    }
                }
                Err(error) if error.kind == ErrorKind::NotFound => self.relocate(),
                Err(error) if next.should_reopen(&error) => {
                    *next = NextRange::open(&self.store, next.range.clone(), false);
                }
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Drives the opening of the next range while the current range has no bytes ready.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        if let Some(next) = &mut self.next
            && let Poll::Ready(opened) = next.opening.as_mut().poll(cx)
        {
            next.opening = Box::pin(std::future::ready(opened));
        }
    }
}

async fn open_range(storage: Arc<dyn Backend>, piece: ObjectRange) -> OpenedRange {
    let mut reader = storage.open(&piece.key, piece.range).await?;
    let first = reader.next().await.transpose()?;
    Ok((first, reader))
}

impl Stream for RelocatingReader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.remaining.is_empty() {
            return Poll::Ready(None);
        }
        let polled = ready!(self.poll_range(cx));
        match &polled {
            Some(Ok(bytes)) => self.remaining.start += bytes.len() as u64,
            Some(Err(_)) => self.remaining = 0..0,
            None => {
                self.remaining = 0..0;
                let error = Error::internal("the objects of the file are shorter than the file");
                return Poll::Ready(Some(Err(error)));
            }
        }
        Poll::Ready(polled)
    }
}

/// Maps `range` of the content to ranges of part objects. Returns `None` if the parts do not add up
/// to `size` bytes.
fn object_ranges(parts: Vec<StoredPart>, range: &Range<u64>, size: u64) -> Option<VecDeque<ObjectRange>> {
    let (mut pieces, mut at) = (VecDeque::new(), 0);
    for part in parts {
        let (start, end) = (at, at + part.size);
        at = end;
        let overlap = range.start.max(start)..range.end.min(end);
        if !overlap.is_empty() {
            let within = |byte: u64| part.offset + (byte - start);
            let range = within(overlap.start)..within(overlap.end);
            pieces.push_back(ObjectRange { key: part.key, range });
        }
    }
    (at == size).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_range(sizes in prop::collection::vec(0..50_u64, 0..8), start in 0..200_u64, len in 0..200_u64) {
            let size: u64 = sizes.iter().sum();
            let (start, end) = (start.min(size), (start + len).min(size));
            let mut bytes = Vec::new();
            let mut parts = Vec::new();
            for (number, size) in (1..).zip(&sizes) {
                let key = Key::parse(&format!("unknown/{number}")).unwrap();
                bytes.extend((0..*size).map(|at| (number, at)));
                let (id, digests) = (number.into(), osproxy_meta::PartDigests::default());
                parts.push(StoredPart {
                    id,
                    number,
                    key,
                    offset: 0,
                    is_own_object: true,
                    incomplete_upload: None,
                    size: *size,
                    digests,
                });
            }
            let expected: Vec<_> = bytes[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].to_vec();
            let mut read = Vec::new();
            for piece in object_ranges(parts.clone(), &(start..end), size).unwrap() {
                prop_assert!(!piece.range.is_empty());
                let number: u32 = piece.key.name().parse().unwrap();
                read.extend(piece.range.map(|at| (number, at)));
            }
            prop_assert_eq!(read, expected);
            prop_assert!(object_ranges(parts, &(start..end), size + 1).is_none());
        }
    }
}
