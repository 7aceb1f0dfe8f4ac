//! Request context that does not depend on the operation or the protocol.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use osproxy_types::uid::Uid;
use tokio::task::futures::TaskLocalFuture;

/// Id of a request, shown in log lines and in the response. Every request has this value in its
/// `http::Extensions`.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

tokio::task_local! {
    static CURRENT: RequestId;
}

impl RequestId {
    /// Makes this the current request id while `request` is polled.
    pub fn scope<F: Future>(self, request: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self, request)
    }

    /// Makes this the current request id while `work` runs.
    pub fn sync_scope<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    /// Returns the current request id. Log lines contain it.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }
}

/// Address of the client: the peer of the connection, or the address that a trusted proxy names.
/// Every request has this value in its `http::Extensions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

/// Uid of the file that a request is about. Every request has this value in its `http::Extensions`;
/// the code that reads the uid from the body sets it.
#[derive(Clone, Debug, Default)]
pub struct Subject(Arc<OnceLock<Uid>>);

impl Subject {
    /// Sets the uid. Only the first call has an effect.
    pub fn set(&self, uid: Uid) {
        let _ = self.0.set(uid);
    }

    /// Returns the uid; `None` if it was not set.
    pub fn get(&self) -> Option<Uid> {
        self.0.get().copied()
    }
}

/// What the access log and the metrics show of a response, in place of the route and the error code
/// of the HTTP APIs. An adapter of another protocol adds it to the extensions of its responses.
#[derive(Clone, Debug, Default)]
pub struct ProtocolOutcome {
    /// Name of the operation, such as `s3:GetObject`; `None` if it is unknown. Must be one of few
    /// names, because each has its metrics.
    pub operation: Option<String>,
    /// The error code of the protocol, such as `NoSuchKey`.
    pub error: Option<String>,
    /// The error message.
    pub why: Option<String>,
}
