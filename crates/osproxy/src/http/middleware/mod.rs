//! What happens to every request, whatever its route.

mod access_log;
mod linger;
mod request;

pub(super) use request::{REQUEST_ID, RequestId, request};
