//! Objects in the stores: deduplication, deletion, multipart uploads, and guards of unfinished
//! writes.

pub(crate) mod deduplicate;
pub(crate) mod delete;
pub(crate) mod multipart;
pub(crate) mod write_guard;
