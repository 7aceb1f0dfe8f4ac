//! The body of a forwarded request, with its progress.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::{Body, BoxError};

/// Flag in [`Shared::progress`]: the body waits for the client.
const WAITS_FOR_CLIENT: u64 = 1;
/// Flag in [`Shared::progress`]: the client aborted the body.
const ABORTED: u64 = 2;
/// One poll in [`Shared::progress`]. All bits above the flags count the polls of the body.
const ONE_POLL: u64 = 4;

struct Shared {
    body: Mutex<Body>,
    progress: AtomicU64,
}

/// Streams a body to another node.
pub(super) struct ForwardedBody(Arc<Shared>);

/// Observes the progress of a [`ForwardedBody`].
pub(super) struct BodyProgress(Arc<Shared>);

impl ForwardedBody {
    pub(super) fn new(body: Body) -> (Self, BodyProgress) {
        let shared = Arc::new(Shared { body: Mutex::new(body), progress: AtomicU64::new(0) });
        (Self(shared.clone()), BodyProgress(shared))
    }
}

impl BodyProgress {
    /// Number of polls of the body so far.
    pub(super) fn polls(&self) -> u64 {
        self.0.progress.load(Ordering::Relaxed) / ONE_POLL
    }

    /// Whether the body waits for the client.
    pub(super) fn is_waiting_for_client(&self) -> bool {
        self.0.progress.load(Ordering::Relaxed) & WAITS_FOR_CLIENT != 0
    }

    /// Whether the client aborted the body.
    pub(super) fn is_aborted(&self) -> bool {
        self.0.progress.load(Ordering::Relaxed) & ABORTED != 0
    }

    /// The body, if it was never polled.
    pub(super) fn into_unread(self) -> Option<Body> {
        let mut body = self.0.body.lock().unwrap_or_else(PoisonError::into_inner);
        (self.0.progress.load(Ordering::Relaxed) == 0).then(|| std::mem::take(&mut *body))
    }
}

impl http_body::Body for ForwardedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut body = self.0.body.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = Pin::new(&mut *body).poll_frame(cx);
        let polls = (self.0.progress.load(Ordering::Relaxed) & !WAITS_FOR_CLIENT) + ONE_POLL;
        let flags = match &frame {
            Poll::Pending => WAITS_FOR_CLIENT,
            Poll::Ready(Some(Err(_))) => ABORTED,
            Poll::Ready(_) => 0,
        };
        self.0.progress.store(polls | flags, Ordering::Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}
