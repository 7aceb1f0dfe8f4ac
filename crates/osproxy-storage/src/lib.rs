//! Object stores behind one trait.
//!
//! A [`Backend`] holds objects under [`Key`]s. Writing streams: bytes go in, digests come out, and the
//! object appears under its key as a whole or not at all. Reading streams a byte range.
//! Nothing here knows files, uids or links; nothing above knows paths, descriptors or vendors.

mod backend;
pub mod backends;
mod buffer;
#[cfg(test)]
mod contract;
mod digest;
mod disk;
mod durations;
mod error;
mod key;
pub mod layers;
mod remote;

pub use backend::{Backend, Listed, Multipart, ObjectList, ObjectReader, ObjectWriter, Shape, SizeHint};
pub use digest::{Digester, Digests, Wanted, combine};
pub use disk::{DiskSpace, check_writable};
pub use durations::{CountedDurations, Durations};
pub use error::{Error, ErrorKind, Result};
pub use key::{Category, InvalidKey, Key, extension};
pub use remote::{Answer, Diagnosis, HttpSettings};
