use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use super::{Layer, Opened};
use crate::{Error, ErrorKind, ObjectReader, Result};

/// Bounds how many readers and writers there are at once. Further ones wait, for a while, and are then refused.
pub struct Limit {
    backend: &'static str,
    transfers: Arc<Semaphore>,
    wait: Duration,
}

impl Limit {
    /// At most `transfers` readers and writers; one more waits so long.
    pub fn new(backend: &'static str, transfers: usize, wait: Duration) -> Self {
        Self { backend, transfers: Arc::new(Semaphore::new(transfers)), wait }
    }
}

#[async_trait]
impl Layer for Limit {
    fn reader(&self, opened: Opened, reader: ObjectReader) -> ObjectReader {
        let held = opened.held;
        Box::pin(reader.inspect(move |_| {
            let _held = &held;
        }))
    }

    async fn hold(&self) -> Result<Option<Box<dyn Send>>> {
        let waiting = tokio::time::timeout(self.wait, self.transfers.clone().acquire_owned());
        if let Ok(Ok(permit)) = waiting.await {
            return Ok(Some(Box::new(permit)));
        }
        Err(Error::new(ErrorKind::Busy, self.backend, "wait"))
    }
}
