use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::{Digester, Digests, Wanted};

/// Bytes are collected to this many before they are hashed in one go.
const BATCH: usize = 256 * 1024;

/// Hashes what passes by on threads for blocking calls, one batch at a time.
#[derive(Default)]
pub(super) struct Hashing {
    waiting: Vec<Bytes>,
    waiting_len: usize,
    idle: Digester,
    busy: Option<JoinHandle<Digester>>,
}

impl Hashing {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { idle: Digester::new(wanted), ..Self::default() }
    }

    pub(super) async fn update(&mut self, bytes: Bytes) {
        self.waiting_len += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_len >= BATCH {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        self.settle().await;
        let (waiting, mut digester) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.idle));
        self.waiting_len = 0;
        self.busy = Some(tokio::task::spawn_blocking(move || {
            for bytes in waiting {
                digester.update(&bytes);
            }
            digester
        }));
    }

    async fn settle(&mut self) {
        if let Some(busy) = self.busy.take() {
            // Only a runtime that is being shut down gives none.
            self.idle = busy.await.unwrap_or_default();
        }
    }

    pub(super) async fn finish(&mut self) -> Digests {
        self.flush().await;
        self.settle().await;
        self.idle.clone().finish()
    }
}
