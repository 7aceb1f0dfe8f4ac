use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes that were transferred, including those of an earlier attempt that need not be sent
    /// again. Decreases when a part that broke off is repeated.
    pub transferred: u64,
    /// Size of the content in bytes, if it is known.
    pub total: Option<u64>,
}

/// Counts the bytes of a transfer, and reports them.
#[derive(Clone, Default)]
pub(crate) struct Meter {
    pub(crate) callback: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    pub(crate) total: Option<u64>,
    pub(crate) transferred: Arc<AtomicU64>,
}

impl Meter {
    pub(crate) fn add(&self, bytes: u64) {
        let transferred = self.transferred.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.report(transferred);
    }

    pub(crate) fn subtract(&self, bytes: u64) {
        if bytes > 0 {
            let transferred = self.transferred.fetch_sub(bytes, Ordering::Relaxed) - bytes;
            self.report(transferred);
        }
    }

    fn report(&self, transferred: u64) {
        if let Some(callback) = &self.callback {
            callback(Progress { transferred, total: self.total });
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("transferred", &self.transferred).finish_non_exhaustive()
    }
}
