use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{
    Vendor,
    client::Shared,
    hashing::Hashing,
    multipart,
    sending::{Sending, Taken, Target, send_whole},
    sizes,
};
use crate::{Digests, Error, ErrorKind, Key, ObjectWriter, Result, SizeHint, Wanted, layers::Backoff};

/// How often content that is still at hand is sent.
const ROUNDS: u32 = 4;

/// Writes an object, or a part of an upload.
///
/// The last bytes are kept until it is published: until then the store has not got what was announced, and takes nothing.
/// Of content whose size is not known the writer keeps as much as one part has, 8 MiB at first; what is larger goes into
/// an upload of the store's, which appears as a whole too.
pub(super) struct Writer<V: Vendor> {
    client: Shared<V>,
    key: Key,
    target: Target,
    size: SizeHint,
    /// Bytes that came.
    received: u64,
    /// Of them those that are not on their way yet.
    held: Vec<Bytes>,
    held_len: u64,
    hashing: Hashing,
    digests: Option<Digests>,
    sending: Option<Sending>,
    cut: Option<Cut<V>>,
}

/// Content that is cut into parts on its way.
struct Cut<V: Vendor> {
    client: Shared<V>,
    key: Key,
    upload: String,
    parts: Vec<(u32, String)>,
    settled: bool,
}

impl<V: Vendor> Cut<V> {
    fn next(&self) -> u32 {
        u32::try_from(self.parts.len()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

impl<V: Vendor> Drop for Cut<V> {
    fn drop(&mut self) {
        // What this cannot abort, the sweep finds.
        if !self.settled
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (client, key, upload) = (self.client.clone(), self.key.clone(), self.upload.clone());
            runtime.spawn(async move { multipart::abort(&client, &key, &upload).await });
        }
    }
}

impl<V: Vendor> Writer<V> {
    pub(super) fn object(client: Shared<V>, key: Key, size: SizeHint) -> Self {
        Self::new(client, key, Target::Object, size)
    }

    pub(super) fn part(client: Shared<V>, key: Key, upload: String, number: u32, size: u64) -> Self {
        Self::new(client, key, Target::Part { upload, number }, SizeHint::Exact(size))
    }

    fn new(client: Shared<V>, key: Key, target: Target, size: SizeHint) -> Self {
        Self {
            client,
            key,
            target,
            size,
            received: 0,
            held: Vec::new(),
            held_len: 0,
            hashing: Hashing::default(),
            digests: None,
            sending: None,
            cut: None,
        }
    }

    fn wrong(what: &'static str) -> Error {
        Error::new(ErrorKind::Other, V::NAME, "write").about(what)
    }

    /// Sends what is held as far as it may go.
    async fn pass_on(&mut self) -> Result<()> {
        match self.size {
            SizeHint::Exact(size) if size <= sizes::KEPT => Ok(()),
            SizeHint::Exact(size) if size <= sizes::MAX_PART => {
                if self.sending.is_none() {
                    self.sending = Some(Sending::start(&self.client, &self.key, &self.target, size));
                }
                self.push(false).await
            }
            SizeHint::Exact(size) => self.pass_on_in_parts(sizes::known_part(size)).await,
            SizeHint::AtMost(_) | SizeHint::Unknown => self.fill_parts().await,
        }
    }

    /// Pushes what is held to where it goes, up to the length announced there, but for the last chunk.
    async fn push(&mut self, all: bool) -> Result<()> {
        let keep = usize::from(!all);
        while self.held.len() > keep
            && let Some(sending) = &mut self.sending
            && sending.left() > 0
        {
            let mut next = self.held.remove(0);
            let fits = usize::try_from(sending.left()).unwrap_or(usize::MAX).min(next.len());
            let rest = next.split_off(fits);
            self.held_len -= next.len() as u64;
            if !rest.is_empty() {
                self.held.insert(0, rest);
            }
            sending.push::<V>(next).await?;
        }
        Ok(())
    }

    /// Content of a known size that is too large for one piece.
    async fn pass_on_in_parts(&mut self, part_size: u64) -> Result<()> {
        loop {
            if self.sending.is_none() && self.held.len() > 1 {
                self.begin_part(part_size).await?;
            }
            self.push(false).await?;
            if !self.end_part().await? {
                return Ok(());
            }
        }
    }

    async fn begin_part(&mut self, part_size: u64) -> Result<()> {
        let SizeHint::Exact(size) = self.size else {
            return Ok(());
        };
        let number = self.cut().await?.next();
        let left = size - (u64::from(number) - 1) * part_size;
        let target = self.part_target(number);
        self.sending = Some(Sending::start(&self.client, &self.key, &target, left.min(part_size)));
        Ok(())
    }

    /// Waits for the answer to a part that is complete. `false`: there is none.
    async fn end_part(&mut self) -> Result<bool> {
        let Some(sending) = self.sending.take_if(|sending| sending.left() == 0) else {
            return Ok(false);
        };
        let taken = sending.finish::<V>().await?;
        if let Some(cut) = &mut self.cut {
            cut.parts.push((cut.next(), taken.tag));
        }
        Ok(true)
    }

    /// Content of unknown size: sends full parts, if it has become clear that they are not the last.
    async fn fill_parts(&mut self) -> Result<()> {
        loop {
            let number = self.cut.as_ref().map_or(1, Cut::next);
            let size = sizes::unknown_part(number);
            if self.held_len <= size {
                return Ok(());
            }
            self.cut().await?;
            self.send_held(size, number).await?;
        }
    }

    /// Sends the first `size` bytes of what is held as one part.
    async fn send_held(&mut self, size: u64, number: u32) -> Result<()> {
        let target = self.part_target(number);
        self.sending = Some(Sending::start(&self.client, &self.key, &target, size));
        self.push(true).await?;
        self.end_part().await.map(|_| ())
    }

    fn part_target(&self, number: u32) -> Target {
        let upload = self.cut.as_ref().map(|cut| cut.upload.clone()).unwrap_or_default();
        Target::Part { upload, number }
    }

    async fn cut(&mut self) -> Result<&Cut<V>> {
        if self.cut.is_none() {
            let upload = multipart::begin(&self.client, &self.key).await?;
            let (client, key) = (self.client.clone(), self.key.clone());
            self.cut = Some(Cut { client, key, upload, parts: Vec::new(), settled: false });
        }
        self.cut.as_ref().ok_or_else(|| Self::wrong("no upload"))
    }

    /// Sends content that was kept, more than once if it has to be.
    async fn send_kept(&mut self, digests: &Digests) -> Result<Taken> {
        let mut content = BytesMut::with_capacity(usize::try_from(self.held_len).unwrap_or(0));
        for bytes in self.held.drain(..) {
            content.extend_from_slice(&bytes);
        }
        let content = content.freeze();
        let mut backoff = Backoff::default();
        for _ in 1..ROUNDS {
            match send_whole(&self.client, &self.key, &self.target, content.clone(), digests.md5).await {
                Err(error) if error.retryable && error.kind == ErrorKind::Other => backoff.pause().await,
                outcome => return outcome,
            }
        }
        send_whole(&self.client, &self.key, &self.target, content, digests.md5).await
    }

    /// Compares what the store has taken with what came.
    fn check(taken: &Taken, digests: &Digests) -> Result<()> {
        let is_md5 = taken.tag.len() == 32 && taken.tag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some(md5) = digests.md5.filter(|_| is_md5 && !taken.is_opaque) else {
            return Ok(());
        };
        if !taken.tag.eq_ignore_ascii_case(&hex::encode(md5)) {
            let mut error = Self::wrong("the store has got other bytes than were sent");
            error.retryable = true;
            return Err(error);
        }
        Ok(())
    }
}

#[async_trait]
impl<V: Vendor> ObjectWriter for Writer<V> {
    fn want(&mut self, wanted: Wanted) {
        self.hashing = Hashing::new(wanted);
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.received += bytes.len() as u64;
        if let SizeHint::Exact(size) = self.size
            && self.received > size
        {
            return Err(Self::wrong("there are more bytes than were announced"));
        }
        self.hashing.update(bytes.clone()).await;
        self.held_len += bytes.len() as u64;
        self.held.push(bytes);
        self.pass_on().await
    }

    async fn finish(&mut self) -> Result<Digests> {
        if let SizeHint::Exact(size) = self.size
            && self.received != size
        {
            return Err(Self::wrong("there are fewer bytes than were announced"));
        }
        let digests = self.hashing.finish().await;
        self.digests = Some(digests);
        Ok(digests)
    }

    async fn publish(mut self: Box<Self>) -> Result<String> {
        let digests = self.digests.ok_or_else(|| Self::wrong("published before it was finished"))?;
        if self.sending.is_none() && self.cut.is_none() {
            let taken = self.send_kept(&digests).await?;
            Self::check(&taken, &digests)?;
            return Ok(taken.tag);
        }
        if self.cut.is_none() {
            self.push(true).await?;
            let sending = self.sending.take().ok_or_else(|| Self::wrong("nothing to send"))?;
            let taken = sending.finish::<V>().await?;
            Self::check(&taken, &digests)?;
            return Ok(taken.tag);
        }
        if let SizeHint::Exact(size) = self.size {
            while self.held_len > 0 {
                if self.sending.is_none() {
                    self.begin_part(sizes::known_part(size)).await?;
                }
                self.push(true).await?;
                self.end_part().await?;
            }
        } else if self.held_len > 0 {
            let number = self.cut.as_ref().map_or(1, Cut::next);
            self.send_held(self.held_len, number).await?;
        }
        let mut cut = self.cut.take().ok_or_else(|| Self::wrong("no upload"))?;
        multipart::complete(&self.client, &self.key, &cut.upload, &cut.parts).await?;
        cut.settled = true;
        Ok(String::new())
    }
}
