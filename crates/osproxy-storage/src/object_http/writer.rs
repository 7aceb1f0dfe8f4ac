//! Writes an object or a part: buffered, streamed, or split into a multipart upload.

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Vendor,
    background_hasher::BackgroundHasher,
    block_buffer::BlockBuffer,
    client::SharedClient,
    multipart, sizes,
    streaming_put::{Md5Source, StreamingPut, Target, send_whole},
};
use crate::{
    BufferReservation, DigestSelection, Digester, Digests, Error, ErrorKind, Key, ObjectWriter, Result,
    SizeHint, retry_policy::retry,
};

/// Maximum attempts to send buffered content.
const SEND_ATTEMPTS: u32 = 4;

/// Writes an object, or a part of an upload.
///
/// Small content of known size is buffered. Larger content of known size is streamed to the store,
/// but the latest chunk is held back until `publish`. The store creates the object only after it
/// has received all announced bytes, so the object cannot appear earlier.
///
/// Content of unknown size is buffered until a part is full. The first part has
/// [`sizes::FIRST_PART`] bytes. If more bytes follow, the writer sends the content as a multipart
/// upload; the object still appears as a whole. The caller reserves the memory for the first part
/// in the buffer budget. The writer reserves the additional memory for larger parts.
pub(super) struct Writer<V: Vendor> {
    client: SharedClient<V>,
    key: Key,
    target: Target,
    size: SizeHint,
    /// Bytes written so far.
    received: u64,
    unsent: Unsent,
    /// Size of the next part, for content of unknown size.
    part_size: u64,
    /// Additional memory for parts larger than the first.
    extra_memory: Option<BufferReservation>,
    hasher: BackgroundHasher<Digester>,
    selection: DigestSelection,
    digests: Option<Digests>,
    put: Option<StreamingPut<V>>,
    split_upload: Option<SplitUpload<V>>,
}

/// Bytes that are not sent yet.
enum Unsent {
    /// The latest chunk of content that is streamed to the store. It is held back until the next
    /// chunk arrives or the content is published.
    LastChunk(Bytes),
    /// All bytes of small content, or the next part of content of unknown size. A failed request
    /// can be sent again.
    Buffered(BlockBuffer),
}

/// Content that the writer splits into a multipart upload.
struct SplitUpload<V: Vendor> {
    client: SharedClient<V>,
    key: Key,
    upload: String,
    parts: Vec<(u32, String)>,
    completed: bool,
}

impl<V: Vendor> SplitUpload<V> {
    fn next(&self) -> u32 {
        u32::try_from(self.parts.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn target(&self) -> Target {
        Target::Part { upload: self.upload.clone(), number: self.next() }
    }
}

impl<V: Vendor> Drop for SplitUpload<V> {
    fn drop(&mut self) {
        // If the abort fails, the sweep or `osproxy fsck` finds the upload later.
        if !self.completed
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (client, key, upload) = (self.client.clone(), self.key.clone(), self.upload.clone());
            runtime.spawn(async move { multipart::abort(&client, &key, &upload).await });
        }
    }
}

impl<V: Vendor> Writer<V> {
    pub(super) fn object(client: SharedClient<V>, key: Key, size: SizeHint) -> Self {
        Self::new(client, key, Target::Object, size)
    }

    pub(super) fn part(client: SharedClient<V>, key: Key, upload: String, number: u32, size: u64) -> Self {
        Self::new(client, key, Target::Part { upload, number }, SizeHint::Exact(size))
    }

    fn new(client: SharedClient<V>, key: Key, target: Target, size: SizeHint) -> Self {
        let unsent = match size {
            SizeHint::Exact(size) if size > sizes::MAX_BUFFERED => Unsent::LastChunk(Bytes::new()),
            _ => Unsent::Buffered(BlockBuffer::default()),
        };
        Self {
            client,
            key,
            target,
            size,
            received: 0,
            unsent,
            part_size: sizes::FIRST_PART,
            extra_memory: None,
            hasher: BackgroundHasher::new(Digester::default()),
            selection: DigestSelection::MD5,
            digests: None,
            put: None,
            split_upload: None,
        }
    }

    fn write_error(what: &'static str) -> Error {
        Error::new(ErrorKind::Other, V::NAME, "write").with_message(what)
    }

    /// Sends full parts of content of unknown size. A part stays buffered until further bytes show
    /// that it is not the last part.
    async fn send_full_parts(&mut self) -> Result<()> {
        while let Unsent::Buffered(buffer) = &mut self.unsent
            && let Some(part) = buffer.take_part(self.part_size)
        {
            self.send_part(part).await?;
            self.grow_part_size()?;
        }
        Ok(())
    }

    /// Increases the part size if the next part should be larger and the buffer budget has the
    /// memory. Fails with `TooLarge` after 10,000 parts.
    fn grow_part_size(&mut self) -> Result<()> {
        let number = self.split_upload.as_ref().map_or(1, SplitUpload::next);
        if number > sizes::MAX_PARTS {
            return Err(
                Error::new(ErrorKind::TooLarge, V::NAME, "write").with_message("more than 10,000 parts")
            );
        }
        let increase = sizes::part_size_of_unknown(number).saturating_sub(self.part_size);
        let buffers = self.client.buffers.as_ref().filter(|_| increase > 0);
        if let Some(extra) = buffers.and_then(|buffers| buffers.try_reserve(increase)) {
            self.part_size += increase;
            match &mut self.extra_memory {
                Some(reservation) => reservation.merge(extra),
                reservation => *reservation = Some(extra),
            }
        }
        Ok(())
    }

    async fn send_part(&mut self, part: Vec<Bytes>) -> Result<()> {
        let target = self.ensure_split_upload().await?.target();
        let tag = self.send_buffered(&target, part).await?;
        self.record_part(tag).await
    }

    /// Sends buffered content, retrying transient errors, and returns its tag.
    async fn send_buffered(&self, target: &Target, content: Vec<Bytes>) -> Result<String> {
        retry(SEND_ATTEMPTS, "write", || send_whole(&self.client, &self.key, target, content.clone())).await
    }

    /// Streams content of known size to the store: in one request, or in parts if the content is
    /// larger than [`sizes::MAX_PART`].
    async fn send_streamed(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let mut put = match self.put.take() {
                Some(put) => put,
                None => self.start_put().await?,
            };
            let fits = usize::try_from(put.remaining()).unwrap_or(usize::MAX).min(bytes.len());
            put.push(bytes.split_to(fits)).await?;
            if self.split_upload.is_some() && put.remaining() == 0 {
                let tag = put.finish(None).await?;
                self.record_part(tag).await?;
            } else {
                self.put = Some(put);
            }
        }
        Ok(())
    }

    async fn start_put(&mut self) -> Result<StreamingPut<V>> {
        let SizeHint::Exact(size) = self.size else {
            return Err(Self::write_error("the content size is not known"));
        };
        if size <= sizes::MAX_PART {
            let md5 = if self.selection.md5 { Md5Source::Caller } else { Md5Source::StreamingPut };
            return Ok(StreamingPut::start(&self.client, &self.key, &self.target, size, md5));
        }
        let part_size = sizes::part_size_of_known(size);
        let split_upload = self.ensure_split_upload().await?;
        let remaining = size - (u64::from(split_upload.next()) - 1) * part_size;
        let target = split_upload.target();
        Ok(StreamingPut::start(
            &self.client,
            &self.key,
            &target,
            remaining.min(part_size),
            Md5Source::StreamingPut,
        ))
    }

    async fn record_part(&mut self, tag: String) -> Result<()> {
        let split_upload = self.ensure_split_upload().await?;
        split_upload.parts.push((split_upload.next(), tag));
        Ok(())
    }

    /// Returns the multipart upload for content that is split. The first call begins the upload.
    async fn ensure_split_upload(&mut self) -> Result<&mut SplitUpload<V>> {
        if self.split_upload.is_none() {
            let upload = multipart::begin(&self.client, &self.key).await?;
            let (client, key) = (self.client.clone(), self.key.clone());
            self.split_upload =
                Some(SplitUpload { client, key, upload, parts: Vec::new(), completed: false });
        }
        self.split_upload.as_mut().ok_or_else(|| Self::write_error("no upload"))
    }
}

#[async_trait]
impl<V: Vendor> ObjectWriter for Writer<V> {
    fn select_digests(&mut self, selection: DigestSelection) {
        self.selection = selection;
        self.hasher = BackgroundHasher::new(Digester::new(selection));
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.received += bytes.len() as u64;
        if let SizeHint::Exact(size) = self.size
            && self.received > size
        {
            return Err(Self::write_error("the content is longer than announced"));
        }
        self.hasher.update(bytes.clone()).await.map_err(|failed| failed.into_error(V::NAME))?;
        match &mut self.unsent {
            Unsent::Buffered(buffer) => {
                buffer.push(bytes);
                match self.size {
                    SizeHint::Exact(_) => Ok(()),
                    SizeHint::AtMost(_) | SizeHint::Unknown => self.send_full_parts().await,
                }
            }
            Unsent::LastChunk(last) => {
                let previous = std::mem::replace(last, bytes);
                self.send_streamed(previous).await
            }
        }
    }

    async fn finish(&mut self) -> Result<Digests> {
        if let SizeHint::Exact(size) = self.size
            && self.received != size
        {
            return Err(Self::write_error("the content is shorter than announced"));
        }
        let digester = self.hasher.finish().await.map_err(|failed| failed.into_error(V::NAME))?;
        let digests = digester.finish();
        self.digests = Some(digests);
        Ok(digests)
    }

    async fn publish(mut self: Box<Self>) -> Result<String> {
        let digests = self.digests.ok_or_else(|| Self::write_error("publish was called before finish"))?;
        match std::mem::replace(&mut self.unsent, Unsent::LastChunk(Bytes::new())) {
            Unsent::Buffered(buffer) if self.split_upload.is_none() => {
                return self.send_buffered(&self.target, buffer.into_all()).await;
            }
            Unsent::Buffered(buffer) => self.send_part(buffer.into_all()).await?,
            Unsent::LastChunk(last) => self.send_streamed(last).await?,
        }
        if let Some(put) = self.put.take() {
            return put.finish(digests.md5).await;
        }
        let mut split_upload =
            self.split_upload.take().ok_or_else(|| Self::write_error("nothing was sent"))?;
        multipart::complete(&self.client, &self.key, &split_upload.upload, &split_upload.parts).await?;
        split_upload.completed = true;
        Ok(String::new())
    }
}
