//! What nodes have to agree on. One node agrees with itself.

mod memory;

pub use memory::InProcess;

use crate::uid::WorkerId;

/// The ways in which nodes know of each other. Correctness of stored data never rests on it.
pub trait Coordinator: Send + Sync + 'static {
    /// The worker number that this node holds now; nobody else issues uids under it.
    fn worker_id(&self) -> WorkerId;
}
