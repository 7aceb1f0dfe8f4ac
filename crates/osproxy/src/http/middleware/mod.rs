//! Middleware: request context, access log, security headers, admission and checks of the head.

mod access_log;
mod admit;
mod client_addr;
mod harden;
mod head;
mod linger;
mod plain_body;
mod probes;
mod request;
mod terms;

pub use admit::Admission;
pub(super) use admit::{
    limit_addresses, limit_changes, limit_collectors, limit_reads, limit_requests, limit_transfers, network,
};
pub(super) use harden::harden_content;
pub(super) use head::head;
pub(super) use linger::TooSlow;
pub(super) use plain_body::{check_encoding, plain_body};
pub(super) use probes::{Probes, space_probes};
pub(super) use request::request;
pub(super) use terms::Terms;
