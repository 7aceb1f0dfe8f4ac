use serde::{Deserialize, Serialize};

/// What nodes tell each other. Kinds that a node does not know are passed over, so that versions can live together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// A file is not what it was: forget what is remembered of it.
    FileChanged {
        /// Its uid.
        uid: i64,
    },
    /// The bytes of a blob are not where they were: forget what is remembered of its files.
    BlobChanged {
        /// Its number.
        blob_id: i64,
    },
    /// There is work that its sender may not have at hand.
    TaskEnqueued,
}

/// What a node hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another node said this.
    Message(Message),
    /// Others may have said something that was not heard: the connection broke, or is there again.
    Gap,
}
