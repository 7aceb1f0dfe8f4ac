//! What is known of a request, whatever it asks and whatever its protocol.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use crate::uid::Uid;

/// Names a request in every line of the log and in its answer. An extension of every request.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// Whose request it is: who is at the other end of the connection, or whom a trusted proxy speaks for. An extension of every
/// request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

/// The file that a request is about, told by whoever finds it in the body. An extension of every request.
#[derive(Clone, Debug, Default)]
pub struct Subject(Arc<OnceLock<Uid>>);

impl Subject {
    /// Says which file it is. The first one counts.
    pub fn tell(&self, uid: Uid) {
        let _ = self.0.set(uid);
    }

    /// The file, if it was told.
    pub fn told(&self) -> Option<Uid> {
        self.0.get().copied()
    }
}
