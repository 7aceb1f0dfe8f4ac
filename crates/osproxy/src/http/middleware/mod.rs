//! What happens to every request, whatever its route.

mod access_log;
mod admit;
mod client_addr;
mod harden;
mod head;
mod linger;
mod request;
mod terms;

pub(super) use admit::{Admission, limit_addresses, limit_requests};
pub(super) use client_addr::{ClientAddr, X_FORWARDED_FOR};
pub(super) use harden::harden_content;
pub(super) use head::head;
pub(super) use linger::TooSlow;
pub(super) use request::{REQUEST_ID, RequestId, request};
pub(super) use terms::Terms;
