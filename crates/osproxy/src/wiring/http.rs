//! Settings of the HTTP routes and listeners.

use std::{sync::Arc, time::Duration};

use osproxy_http::{
    AccessLog, Allowed, CorsSettings, HttpSettings, ListenerSettings, PublicUrl, RequestLimits,
};

use crate::{
    config::{ANY, Config, CorsSection, ServerSection},
    version,
};

/// Returns the settings of the routes.
pub fn http_settings(config: &Config, access_log: Option<Arc<dyn AccessLog>>) -> HttpSettings {
    let server = &config.server;
    HttpSettings {
        version: version::FULL,
        limits: RequestLimits {
            max_requests: config.limits.max_requests,
            max_transfers: config.limits.max_transfers,
            max_address_rate: config.limits.max_address_rate,
        },
        cors: cors_settings(&config.cors),
        body_timeout: Duration::from_secs(server.body_timeout),
        min_rate: server.min_rate,
        min_rate_window: Duration::from_secs(server.min_rate_window),
        max_head_bytes: server.max_header_bytes,
        trusted_proxies: server.trusted_proxies.clone(),
        // An invalid URL was rejected when the configuration was checked.
        public_url: server.public_url.as_deref().and_then(PublicUrl::parse),
        is_tls: config.tls.is_enabled(),
        tus_lifetime_secs: config
            .uploads
            .tus_lifetime
            .cast_signed()
            .min(config.links.max_lifetime.cast_signed()),
        access_log,
        render_grpc_error: osproxy_grpc::render_error,
    }
}

fn cors_settings(section: &CorsSection) -> CorsSettings {
    CorsSettings {
        origins: allowed(&section.allow_origins),
        headers: allowed(&section.allow_headers),
        max_age: Duration::from_secs(section.max_age),
    }
}

/// Parses a list that may contain `*`. Invalid entries were rejected when the configuration was
/// checked.
fn allowed<'a, T: TryFrom<&'a String>>(list: &'a [String]) -> Allowed<T> {
    if list.iter().any(|entry| entry == ANY) {
        Allowed::Any
    } else {
        Allowed::Only(list.iter().filter_map(|entry| entry.try_into().ok()).collect())
    }
}

/// Returns the settings of a listener.
pub fn listener_settings(section: &ServerSection) -> ListenerSettings {
    ListenerSettings {
        header_timeout: Duration::from_secs(section.header_timeout),
        idle_timeout: Duration::from_secs(section.idle_timeout),
        write_timeout: Duration::from_secs(section.write_timeout),
        shutdown_grace: Duration::from_secs(section.shutdown_grace),
        min_rate: section.min_rate,
        min_rate_window: Duration::from_secs(section.min_rate_window),
        max_head_bytes: section.max_header_bytes,
        max_connections: section.max_connections.into(),
        max_connections_per_address: section.connections_per_address(),
        trusted_proxies: section.trusted_proxies.clone(),
    }
}
