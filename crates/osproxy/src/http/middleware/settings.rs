//! Settings of the middleware.

use std::time::Duration;

use axum::http::HeaderValue;
use ipnet::IpNet;

use crate::{config::Config, http::rate_limiter::RateLimiter};

/// Limits and settings that apply to every request.
pub(in crate::http) struct RequestSettings {
    pub(super) body_timeout: Duration,
    pub(super) rate_limiter: RateLimiter,
    /// Largest request head, in bytes.
    pub(super) max_head_bytes: usize,
    /// Networks of proxies whose forwarding headers are trusted.
    pub(super) trusted_proxies: Vec<IpNet>,
    /// The first allowed CORS origin, for responses to requests whose head could not be parsed.
    pub(super) fallback_origin: Option<HeaderValue>,
    /// Whether clients connect over TLS.
    pub(super) is_tls: bool,
}

impl RequestSettings {
    pub(in crate::http) fn new(config: &Config) -> Self {
        Self {
            body_timeout: Duration::from_secs(config.server.body_timeout),
            rate_limiter: RateLimiter::from_config(&config.server),
            max_head_bytes: config.server.max_header_bytes as usize,
            trusted_proxies: config.server.trusted_proxies.clone(),
            fallback_origin: config.cors.allow_origins.first().and_then(|origin| origin.try_into().ok()),
            is_tls: config.tls.is_enabled(),
        }
    }
}
