//! Which interface caused an event.

use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static CURRENT: EventSource;
}

/// The interface that caused an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventSource {
    /// HTTP API v0.
    V0,
    /// HTTP API v1, or a link that it issued.
    V1,
    /// The tus protocol or the IETF draft for resumable uploads.
    Tus,
    /// gRPC.
    Grpc,
    /// The S3 API.
    S3,
    /// The service itself: a background task or a command.
    #[default]
    Service,
}

impl EventSource {
    /// The name in the payload of events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0 => "v0",
            Self::V1 => "v1",
            Self::Tus => "tus",
            Self::Grpc => "grpc",
            Self::S3 => "s3",
            Self::Service => "service",
        }
    }

    /// Makes this the source of the events that `work` causes while it is polled. Work that is
    /// spawned does not inherit the source.
    pub fn scope<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self, work)
    }

    /// Returns the current source; `Service` outside of [`scope`](Self::scope).
    pub fn current() -> Self {
        CURRENT.try_with(|source| *source).unwrap_or_default()
    }
}
