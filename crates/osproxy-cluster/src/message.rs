//! Messages between nodes.

use serde::{Deserialize, Serialize};

/// A message between nodes. Unknown kinds are ignored, so that nodes of different versions can run
/// together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// A file changed: evict it from the cache.
    FileChanged {
        /// Uid of the file.
        uid: i64,
    },
    /// The bytes of a blob moved: evict the files of the blob from the cache.
    BlobChanged {
        /// Id of the blob.
        blob_id: i64,
    },
    /// A bucket was created, changed or deleted: evict it from the cache.
    BucketChanged {
        /// Name of the bucket.
        name: String,
    },
    /// The sender enqueued a task that the sender may be unable to run.
    TaskEnqueued,
    /// The sender has recorded events, which readers on all nodes can see now.
    EventsRecorded,
    /// A request on the sender appends to an upload in a shared store.
    AppendStarted {
        /// Uid of the upload.
        uid: i64,
        /// Random id of the request.
        append: u64,
    },
    /// This request has ended, and the bytes that it has received are durable.
    AppendEnded {
        /// Uid of the upload.
        uid: i64,
        /// Id of the request.
        append: u64,
    },
    /// A newer request for the upload has arrived on the sender: end this one.
    AppendSuperseded {
        /// Id of the request.
        append: u64,
    },
}

/// An event that [`Coordinator::subscribe`](crate::Coordinator::subscribe) delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message of another node.
    Message(Message),
    /// Messages may have been missed, because the connection was lost or has just been restored.
    MayHaveMissed,
}
