//! Concurrency limit of a store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use super::{Layer, OpenedObject};
use crate::{Error, ErrorKind, ObjectReader, Result};

/// Limits the number of concurrent readers and writers. At the limit, opening a reader or writer
/// waits until another one is dropped. If the wait takes too long, the operation fails with `Busy`.
pub struct Limit {
    backend: &'static str,
    transfers: Arc<Semaphore>,
    wait: Duration,
}

impl Limit {
    /// Allows `transfers` concurrent readers and writers in total. At this limit, opening a reader
    /// or writer waits for at most `wait`.
    pub fn new(backend: &'static str, transfers: usize, wait: Duration) -> Self {
        Self { backend, transfers: Arc::new(Semaphore::new(transfers)), wait }
    }
}

#[async_trait]
impl Layer for Limit {
    fn reader(&self, opened: OpenedObject, reader: ObjectReader) -> ObjectReader {
        let permit = opened.permit;
        Box::pin(reader.inspect(move |_| {
            let _permit = &permit;
        }))
    }

    async fn acquire_permit(&self) -> Result<Option<Box<dyn Send>>> {
        let acquiring = tokio::time::timeout(self.wait, self.transfers.clone().acquire_owned());
        if let Ok(Ok(permit)) = acquiring.await {
            return Ok(Some(Box::new(permit)));
        }
        Err(Error::new(ErrorKind::Busy, self.backend, "wait"))
    }
}
