//! Writing and removing objects, and the guards that clean up after failures.

pub(crate) mod delete;
pub(crate) mod multipart;
pub(crate) mod receive;
pub(crate) mod write_guard;
