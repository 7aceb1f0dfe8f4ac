//! What is known about the current request. `s3s` has no way to pass it between its hooks.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use osproxy_core::Error;

tokio::task_local! {
    static CURRENT: Context;
}

/// What is known about a request.
#[derive(Clone, Default)]
pub(crate) struct Context(Arc<Known>);

#[derive(Default)]
struct Known {
    is_signed: AtomicBool,
    is_logged: AtomicBool,
    operation: OnceLock<String>,
    body_error: OnceLock<Error>,
    received: AtomicU64,
}

impl Context {
    /// Makes this the current context while `request` is polled.
    pub(crate) async fn scope<F: Future>(self, request: F) -> F::Output {
        CURRENT.scope(self, request).await
    }

    /// Returns the current context; an empty one outside of [`scope`](Self::scope).
    pub(crate) fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Records that the secret of a key was looked up to verify a signature.
    pub(crate) fn set_signed(&self) {
        self.0.is_signed.store(true, Ordering::Relaxed);
    }

    /// Whether the request has a signature, valid or not.
    pub(crate) fn is_signed(&self) -> bool {
        self.0.is_signed.load(Ordering::Relaxed)
    }

    /// Records that the error of the request is in the log.
    pub(crate) fn set_logged(&self) {
        self.0.is_logged.store(true, Ordering::Relaxed);
    }

    /// Whether the error of the request is in the log.
    pub(crate) fn is_logged(&self) -> bool {
        self.0.is_logged.load(Ordering::Relaxed)
    }

    /// Records the name of the operation.
    pub(crate) fn set_operation(&self, name: &str) {
        let _ = self.0.operation.set(format!("s3:{name}"));
    }

    /// The name of the operation, such as `s3:GetObject`; `None` if it is not known yet.
    pub(crate) fn operation(&self) -> Option<&str> {
        self.0.operation.get().map(String::as_str)
    }

    /// Counts bytes of the body of the request.
    pub(crate) fn count_received(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes of the body were read.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Records why the body of the request could not be read.
    pub(crate) fn set_body_error(&self, error: Error) {
        let _ = self.0.body_error.set(error);
    }

    /// Why the body of the request could not be read.
    pub(crate) fn body_error(&self) -> Option<&Error> {
        self.0.body_error.get()
    }
}
