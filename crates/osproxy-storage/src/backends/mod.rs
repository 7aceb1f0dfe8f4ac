//! One file for each store.

mod local;
mod memory;

pub use local::Local;
pub use memory::Memory;
