//! Middleware: request context, access log, security headers, request limits and checks of the
//! head.

mod access_log;
mod checks;
mod client_addr;
pub(crate) mod cors;

mod body_timeouts;
mod plain_body;
mod probes;
mod request_context;
mod request_head;
mod request_limiter;
mod security_headers;

pub use access_log::{AccessLine, AccessLog};
pub(super) use body_timeouts::TooSlow;
pub(super) use checks::{BodyCheck, RequestChecks};
pub(super) use plain_body::{check_encoding, reject_body};
pub(super) use probes::{ProbeSchedule, throttle_probes};
pub(super) use request_context::{Edge, request_context};
pub use request_limiter::RequestLimiter;
pub(super) use request_limiter::{Concurrency, client_network, limit_metrics};
pub(super) use security_headers::insert_content_security_headers;
