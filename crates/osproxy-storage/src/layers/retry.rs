//! Retries of operations and readers.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{Layer, OpenedObject, Operation, RetryableOperation};
use crate::{
    Backend, Error, ErrorKind, Key, ObjectReader, Result,
    retry_policy::{Attempts, retry},
};

/// Retries operations that failed with a transient error. Readers reopen the object at the offset
/// where they failed.
///
/// Operations of a writer are never retried, because the bytes that were written are no longer
/// available. [`Multipart::complete`] is retried: if an attempt completed the upload but the
/// response was lost, the retry may fail with `NotFound`.
///
/// [`Multipart::complete`]: crate::Multipart::complete
#[derive(Clone, Debug)]
pub struct Retry {
    /// Maximum number of attempts, including the first.
    pub attempts: u32,
}

#[async_trait]
impl Layer for Retry {
    async fn run_retryable<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        run: &RetryableOperation<'a, T>,
    ) -> Result<T> {
        retry(self.attempts, operation.name(), run).await
    }

    fn reader(&self, opened: OpenedObject, reader: ObjectReader) -> ObjectReader {
        let reader = ResumingReader {
            store: opened.store,
            key: opened.key,
            upload: opened.upload,
            remaining: opened.range,
            reader: Some(reader),
            attempts: Attempts::new(self.attempts),
        };
        Box::pin(stream::try_unfold(reader, |mut reader| async move {
            let next = reader.next().await?;
            Ok(next.map(|bytes| (bytes, reader)))
        }))
    }
}

struct ResumingReader {
    store: Arc<dyn Backend>,
    key: Key,
    upload: Option<String>,
    remaining: Range<u64>,
    reader: Option<ObjectReader>,
    /// Counts the failures since the latest successful read.
    attempts: Attempts,
}

impl ResumingReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.read_chunk().await {
                Ok(Some(bytes)) => {
                    self.remaining.start += bytes.len() as u64;
                    self.attempts.reset();
                    return Ok(Some(bytes));
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.reader = None;
                    self.attempts.pause_after(error, "read").await?;
                    tracing::debug!(key = %self.key, at = self.remaining.start, "reopening the object");
                }
            }
        }
    }

    async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        if self.remaining.is_empty() {
            return Ok(None);
        }
        let reader = if let Some(reader) = &mut self.reader {
            reader
        } else {
            let (upload, range) = (self.upload.as_deref(), self.remaining.clone());
            self.reader.insert(super::open(&*self.store, &self.key, upload, range).await?)
        };
        if let Some(bytes) = reader.next().await {
            return bytes.map(Some);
        }
        let error = Error::new(ErrorKind::Other, self.store.name(), "read");
        Err(error.with_message("the reader ended before the end of the range").mark_retryable())
    }
}
