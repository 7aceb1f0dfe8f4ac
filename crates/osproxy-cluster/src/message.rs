//! Messages between nodes.

use serde::{Deserialize, Serialize};

/// Messages between nodes. Unknown kinds are ignored, so that nodes of different versions can run
/// together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// A file changed: evict it from the cache.
    FileChanged {
        /// Uid of the file.
        uid: i64,
    },
    /// The bytes of a blob moved: evict its files from the cache.
    BlobChanged {
        /// Id of the blob.
        blob_id: i64,
    },
    /// A task was enqueued that the sender may be unable to run.
    TaskEnqueued,
}

/// An event for listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message of another node.
    Message(Message),
    /// Messages may have been missed: the connection was lost, or was restored.
    MayHaveMissed,
}
