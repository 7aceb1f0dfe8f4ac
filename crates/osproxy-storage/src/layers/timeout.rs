//! Timeouts of operations and readers.

use std::{error::Error as StdError, fmt, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture, stream};

use super::{Layer, OpenedObject, Operation};
use crate::{Error, ErrorKind, ObjectReader, Result};

/// Stops operations of a store that take too long. Such operations fail with a retryable error.
#[derive(Clone, Debug)]
pub struct Timeout {
    /// Name of the backend.
    pub backend: &'static str,
    /// Limit for each operation, including each write, and for each chunk of a reader.
    pub operation: Duration,
    /// Limit for operations that are slow in some stores: completing an upload, deleting objects
    /// and preparing buckets.
    pub complete: Duration,
}

#[derive(Debug)]
pub(crate) struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store did not answer in time")
    }
}

impl StdError for TimedOut {}

fn timed_out(backend: &'static str) -> Error {
    Error::new(ErrorKind::Other, backend, "wait").with_source(Box::new(TimedOut)).mark_retryable()
}

#[async_trait]
impl Layer for Timeout {
    async fn run_once<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        running: BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        let limit = match operation {
            Operation::CompleteUpload | Operation::Prepare | Operation::Delete => self.complete,
            _ => self.operation,
        };
        tokio::time::timeout(limit, running).await.unwrap_or_else(|_| Err(timed_out(self.backend)))
    }

    fn reader(&self, _opened: OpenedObject, reader: ObjectReader) -> ObjectReader {
        let (backend, limit) = (self.backend, self.operation);
        Box::pin(stream::unfold(Some(reader), move |reader| async move {
            let mut reader = reader?;
            match tokio::time::timeout(limit, reader.next()).await {
                Ok(next) => next.map(|bytes| (bytes, Some(reader))),
                Err(_) => Some((Err(timed_out(backend)), None)),
            }
        }))
    }
}
