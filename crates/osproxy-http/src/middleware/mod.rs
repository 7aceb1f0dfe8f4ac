//! Middleware: request context, access log, security headers, request limits and checks of the
//! head.

mod access_log;
mod client_addr;
pub(crate) mod cors;

mod body_timeouts;
mod plain_body;
mod probes;
mod request_context;
mod request_head;
mod request_limiter;
mod security_headers;

pub(super) use body_timeouts::TooSlow;
pub(super) use plain_body::{check_encoding, reject_encoded_body};
pub(super) use probes::{ProbeSchedule, throttle_probes};
pub(super) use request_context::request_context;
pub(super) use request_head::check_head;
pub use request_limiter::RequestLimiter;
pub(super) use request_limiter::{
    client_network, limit_addresses, limit_changes, limit_metrics, limit_reads, limit_requests,
    limit_transfers,
};
pub(super) use security_headers::insert_content_security_headers;
