//! Fault injection for tests.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture, stream};

use super::{Layer, OpenedObject, Operation};
use crate::{Error, ErrorKind, ObjectReader, Result};

/// Makes operations fail, and makes readers fail midway. An operation fails either before it runs,
/// or after it succeeded. The second case simulates a lost response.
pub struct Fault {
    /// On average, one of `one_in` operations or readers fails; 0 disables faults.
    one_in: u64,
    state: Mutex<u64>,
}

impl Fault {
    /// Creates a deterministic fault layer: the same seed injects the same faults into the same
    /// sequence of operations.
    pub fn new(one_in: u64, seed: u64) -> Self {
        Self { one_in, state: Mutex::new(seed | 1) }
    }

    fn next_random(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn should_fail(&self) -> bool {
        self.one_in > 0 && (self.next_random() >> 16).is_multiple_of(self.one_in)
    }
}

fn injected_fault() -> Error {
    Error::new(ErrorKind::Other, "fault", "break").with_message("injected fault").mark_retryable()
}

#[async_trait]
impl Layer for Fault {
    async fn run_once<'a, T: Send + 'a>(
        &'a self,
        _operation: Operation,
        running: BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        if !self.should_fail() {
            return running.await;
        }
        if self.next_random() & (1 << 20) == 0 {
            // Run the operation, but lose its result.
            running.await?;
        }
        Err(injected_fault())
    }

    fn reader(&self, opened: OpenedObject, reader: ObjectReader) -> ObjectReader {
        if !self.should_fail() {
            return reader;
        }
        let mut remaining = self.next_random() % (opened.range.end - opened.range.start).max(1);
        let truncated = reader.map(move |bytes| {
            let mut bytes = bytes?;
            if remaining == 0 {
                return Err(injected_fault());
            }
            bytes.truncate(usize::try_from(remaining).unwrap_or(usize::MAX));
            remaining -= bytes.len() as u64;
            Ok(bytes)
        });
        // A reader fails at the chunk after the cut. If the cut is in the final chunk, there is no
        // such chunk, and the reader fails with this appended fault.
        Box::pin(truncated.chain(stream::iter([Err(injected_fault())])))
    }
}
