//! Request context that does not depend on the operation or the protocol.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use osproxy_types::uid::Uid;

/// Id of a request, in log lines and in the response. Every request carries it in its
/// `http::Extensions`.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// Address of the client: the peer of the connection, or the address that a trusted proxy names. An
/// extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

/// Uid of the file that a request is about. Set by the code that reads the uid from the body. An
/// extension of every request.
#[derive(Clone, Debug, Default)]
pub struct Subject(Arc<OnceLock<Uid>>);

impl Subject {
    /// Sets the uid. Only the first call counts.
    pub fn set(&self, uid: Uid) {
        let _ = self.0.set(uid);
    }

    /// Returns the uid; `None` if it was not set.
    pub fn get(&self) -> Option<Uid> {
        self.0.get().copied()
    }
}
