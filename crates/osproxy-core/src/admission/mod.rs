//! Admission: concurrency limits, backpressure, and reservations of disk space.

pub(crate) mod backpressure;
pub(crate) mod guard;
pub(crate) mod reservations;
pub(crate) mod transfers;
