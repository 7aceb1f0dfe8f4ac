//! Hashes a stream of bytes on threads for blocking calls.

use std::{error::Error as StdError, fmt};

use bytes::{Bytes, BytesMut};
use md5::Md5;
use tokio::task::JoinHandle;

use crate::{Digester, Error, ErrorKind};

/// Bytes are collected until a batch has at least this size, and then hashed.
const BATCH: usize = 256 * 1024;
/// Chunks below this size, in bytes, are copied into larger chunks. Otherwise, each small chunk
/// would cost additional CPU time and keep a whole network buffer in memory.
const COALESCED: usize = 4096;

/// A hash over a stream of bytes.
pub(super) trait Hasher: Send + 'static {
    fn update(&mut self, bytes: &[u8]);
}

impl Hasher for Digester {
    fn update(&mut self, bytes: &[u8]) {
        Self::update(self, bytes);
    }
}

impl Hasher for Md5 {
    fn update(&mut self, bytes: &[u8]) {
        md5::Digest::update(self, bytes);
    }
}

/// A hashing job panicked, or the shutdown of the runtime cancelled it. The state of the hash is
/// lost.
#[derive(Debug)]
pub(super) struct HashingFailed;

impl fmt::Display for HashingFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the hashing job ended without a result")
    }
}

impl StdError for HashingFailed {}

impl HashingFailed {
    pub(super) fn into_error(self, backend: &'static str) -> Error {
        Error::new(ErrorKind::Other, backend, "hash").with_source(Box::new(self))
    }
}

/// Hashes bytes on threads for blocking calls, one batch at a time. After an error,
/// [`finish`](Self::finish) and the hashing of further batches fail too.
pub(super) struct BackgroundHasher<H> {
    pending: Vec<Bytes>,
    small: BytesMut,
    pending_len: usize,
    idle: Option<H>,
    busy: Option<JoinHandle<H>>,
}

impl<H: Hasher> BackgroundHasher<H> {
    pub(super) fn new(hasher: H) -> Self {
        Self { pending: Vec::new(), small: BytesMut::new(), pending_len: 0, idle: Some(hasher), busy: None }
    }

    pub(super) async fn update(&mut self, bytes: Bytes) -> Result<(), HashingFailed> {
        self.pending_len += bytes.len();
        if bytes.len() < COALESCED {
            self.small.extend_from_slice(&bytes);
        } else {
            self.push_small();
            self.pending.push(bytes);
        }
        if self.pending_len >= BATCH {
            self.start().await?;
        }
        Ok(())
    }

    fn push_small(&mut self) {
        if !self.small.is_empty() {
            self.pending.push(self.small.split().freeze());
        }
    }

    async fn start(&mut self) -> Result<(), HashingFailed> {
        let mut hasher = self.take_idle().await?;
        self.push_small();
        self.pending_len = 0;
        let batch = std::mem::take(&mut self.pending);
        self.busy = Some(tokio::task::spawn_blocking(move || {
            for bytes in batch {
                hasher.update(&bytes);
            }
            hasher
        }));
        Ok(())
    }

    async fn take_idle(&mut self) -> Result<H, HashingFailed> {
        // Await the job inside `self.busy`: if the caller is cancelled here, the job must not be
        // lost.
        if let Some(busy) = &mut self.busy {
            let hasher = busy.await;
            self.busy = None;
            return hasher.map_err(|_| HashingFailed);
        }
        self.idle.take().ok_or(HashingFailed)
    }

    /// Waits until all bytes are hashed, and returns the hasher.
    pub(super) async fn finish(&mut self) -> Result<H, HashingFailed> {
        self.start().await?;
        self.take_idle().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb(Vec<u8>);

    impl AsRef<[u8]> for Bomb {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("this batch cannot be hashed");
        }
    }

    #[tokio::test]
    async fn after_a_panic_every_call_fails() {
        let mut hasher = BackgroundHasher::new(Digester::default());
        hasher.update(Bytes::from_owner(Bomb(vec![0; BATCH]))).await.unwrap();
        assert!(hasher.update(Bytes::from(vec![1; BATCH])).await.is_err());
        assert!(hasher.update(Bytes::from(vec![2; BATCH])).await.is_err());
        assert!(hasher.finish().await.is_err());
    }

    #[tokio::test]
    async fn chunks_of_all_sizes_are_hashed_in_order() {
        let (mut hasher, mut whole) = (BackgroundHasher::new(Digester::default()), Digester::default());
        for (number, size) in (0_u8..).zip([1, COALESCED - 1, COALESCED, 3, BATCH + 1, 5, BATCH, 7]) {
            let chunk = vec![number; size];
            whole.update(&chunk);
            hasher.update(Bytes::from(chunk)).await.unwrap();
        }
        assert_eq!(hasher.finish().await.unwrap().finish(), whole.finish());
    }
}
