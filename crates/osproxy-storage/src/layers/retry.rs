use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{Backoff, Layer, OpenedObject, Operation, RetryableOperation};
use crate::{Backend, Error, ErrorKind, Key, ObjectReader, Result};

/// Retries operations that failed with a transient error. Readers reopen the object at the offset
/// where they failed.
///
/// Operations that write a stream are never retried, because their bytes are no longer available.
/// [`Multipart::complete`] is retried: if the first attempt succeeded after all, the second finds
/// no upload.
///
/// [`Multipart::complete`]: crate::Multipart::complete
#[derive(Clone, Debug)]
pub struct Retry {
    /// Maximum number of attempts, including the first.
    pub attempts: u32,
}

fn is_transient(error: &Error) -> bool {
    error.retryable && error.kind == ErrorKind::Other
}

#[async_trait]
impl Layer for Retry {
    async fn run_retryable<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        run: &RetryableOperation<'a, T>,
    ) -> Result<T> {
        let mut backoff = Backoff::default();
        for _ in 1..self.attempts {
            match run().await {
                Err(error) if is_transient(&error) => {
                    tracing::debug!(?operation, %error, "store operation failed; retrying");
                    backoff.pause().await;
                }
                outcome => return outcome,
            }
        }
        run().await
    }

    fn reader(&self, opened: OpenedObject, reader: ObjectReader) -> ObjectReader {
        let rest = ResumingReader {
            store: opened.store,
            key: opened.key,
            remaining: opened.range,
            reader: Some(reader),
            failures: 0,
            attempts: self.attempts,
            backoff: Backoff::default(),
        };
        Box::pin(stream::try_unfold(rest, |mut rest| async move {
            let next = rest.next().await?;
            Ok(next.map(|bytes| (bytes, rest)))
        }))
    }
}

struct ResumingReader {
    store: Arc<dyn Backend>,
    key: Key,
    remaining: Range<u64>,
    reader: Option<ObjectReader>,
    /// Consecutive failures without a byte in between.
    failures: u32,
    attempts: u32,
    backoff: Backoff,
}

impl ResumingReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.read_chunk().await {
                Ok(Some(bytes)) => {
                    self.remaining.start += bytes.len() as u64;
                    (self.failures, self.backoff) = (0, Backoff::default());
                    return Ok(Some(bytes));
                }
                Ok(None) => return Ok(None),
                Err(error) if is_transient(&error) && self.failures + 1 < self.attempts => {
                    tracing::debug!(
                        key = %self.key,
                        at = self.remaining.start,
                        %error,
                        "reader failed; reopening at this offset"
                    );
                    self.failures += 1;
                    self.reader = None;
                    self.backoff.pause().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        if self.remaining.is_empty() {
            return Ok(None);
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(self.store.open(&self.key, self.remaining.clone()).await?),
        };
        if let Some(bytes) = reader.next().await {
            return bytes.map(Some);
        }
        let mut error =
            Error::new(ErrorKind::Other, self.store.name(), "read").with_message("reader ended early");
        error.retryable = true;
        Err(error)
    }
}
