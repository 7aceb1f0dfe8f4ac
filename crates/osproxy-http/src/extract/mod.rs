//! Parses parts of requests: links, upload grants, API keys, ranges, preconditions, JSON bodies, headers of
//! proxies.

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod conditional;
pub(crate) mod disposition;
pub(crate) mod forwarded;
pub(crate) mod json;
pub(crate) mod link;
pub(crate) mod public_url;
pub(crate) mod range;
pub(crate) mod upload_creator;
