use std::time::Duration;

use axum::http::HeaderValue;
use ipnet::IpNet;

use crate::{config::Config, http::pace::Pace};

/// What requests are held to, whatever they ask.
pub(in crate::http) struct Terms {
    pub(super) body_timeout: Duration,
    pub(super) pace: Pace,
    /// Longest head, in bytes.
    pub(super) max_head: usize,
    /// Who is believed about whom a request comes from.
    pub(super) trusted: Vec<IpNet>,
    /// An origin whose pages may see answers to requests whose own origin is not known, if pages of any may not.
    pub(super) origin: Option<HeaderValue>,
    /// Whether clients come over TLS.
    pub(super) secure: bool,
}

impl Terms {
    pub(in crate::http) fn new(config: &Config) -> Self {
        Self {
            body_timeout: Duration::from_secs(config.server.body_timeout),
            pace: Pace::of(&config.server),
            max_head: config.server.max_header_bytes as usize,
            trusted: config.server.trusted_proxies.clone(),
            origin: config.cors.allow_origins.first().and_then(|origin| origin.try_into().ok()),
            secure: config.tls.is_on(),
        }
    }
}
