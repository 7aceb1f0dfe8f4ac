//! What is known about the current request. `s3s` has no way to pass it between its hooks.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use axum::body::Body;
use bytes::BytesMut;
use osproxy_core::Error;

use crate::MAX_FORM_BYTES;

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
    key: OnceLock<String>,
    body_error: OnceLock<Error>,
    elsewhere: OnceLock<String>,
    unread: Mutex<Option<Body>>,
    form: Mutex<BytesMut>,
    file_name: OnceLock<String>,
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

    /// Records the key of the object that the request is about.
    pub(crate) fn set_key(&self, key: &str) {
        let _ = self.0.key.set(key.to_owned());
    }

    /// The key of the object that the request is about; `None` if it is not known yet.
    pub(crate) fn key(&self) -> Option<&str> {
        self.0.key.get().map(String::as_str)
    }

    /// Counts bytes of the body of the request.
    pub(crate) fn count_received(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes of the body were read.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Records that only another node has `store`, which the request needs.
    pub(crate) fn set_elsewhere(&self, store: &str) {
        let _ = self.0.elsewhere.set(store.to_owned());
    }

    /// The store that the request needs, if only another node has it.
    pub(crate) fn elsewhere(&self) -> Option<&str> {
        self.0.elsewhere.get().map(String::as_str)
    }

    /// Keeps a body of which nothing was read.
    pub(crate) fn put_back(&self, body: Body) {
        *self.0.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    /// Returns the body of the request, if nothing of it was read.
    pub(crate) fn take_unread(&self) -> Option<Body> {
        self.0.unread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the beginning of a form.
    pub(crate) fn keep_form(&self, data: &[u8]) {
        let mut form = self.0.form.lock().unwrap_or_else(PoisonError::into_inner);
        let length = data.len().min(MAX_FORM_BYTES - form.len());
        form.extend_from_slice(data.get(..length).unwrap_or_default());
    }

    /// Returns the beginning of the form, with all fields before the file.
    pub(crate) fn form(&self) -> BytesMut {
        std::mem::take(&mut *self.0.form.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records the name of the file that was inserted in the key of a form.
    pub(crate) fn set_file_name(&self, name: &str) {
        let _ = self.0.file_name.set(name.to_owned());
    }

    /// The name of the file that was inserted in the key of a form.
    pub(crate) fn file_name(&self) -> Option<&str> {
        self.0.file_name.get().map(String::as_str)
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
