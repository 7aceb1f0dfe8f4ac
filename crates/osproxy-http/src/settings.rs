//! Settings of the routes and the listeners. The binary derives them from its configuration.

use std::{sync::Arc, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use ipnet::IpNet;
use osproxy_core::Error;

use crate::{extract::public_url::PublicUrl, middleware::AccessLog};

/// Renders an error as a gRPC response.
pub type RenderGrpcError = fn(Arc<Error>) -> Response;

/// Renders an error as a response of the S3 API.
pub type RenderS3Error = fn(&Error) -> Response;

/// Settings of the routes.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Version of this build, for the start page.
    pub version: &'static str,
    /// Limits for the [`RequestLimiter`](super::RequestLimiter).
    pub limits: RequestLimits,
    /// Which web pages may call the API from a browser.
    pub cors: CorsSettings,
    /// How long a client may pause while it sends a body.
    pub body_timeout: Duration,
    /// Minimum rate at which a client must send a body, in bytes per second; 0 turns the check off.
    pub min_rate: u64,
    /// How long a client may be slower than `min_rate`.
    pub min_rate_window: Duration,
    /// Largest request head, in bytes.
    pub max_head_bytes: u32,
    /// Networks of proxies whose forwarding headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The URL at which clients reach the service, if it is known.
    pub public_url: Option<PublicUrl>,
    /// Whether TLS is enabled. If so, responses tell browsers to use only TLS.
    pub is_tls: bool,
    /// How long an upload that was created through tus stays open, in seconds.
    pub tus_lifetime_secs: i64,
    /// Takes the lines of the access log; `None` for no access log.
    pub access_log: Option<Arc<dyn AccessLog>>,
    /// Renders the errors of gRPC calls.
    pub render_grpc_error: RenderGrpcError,
}

/// Limits on the requests that a node accepts.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Concurrent requests. Uploads of content and gRPC calls that stream content do not count.
    pub max_requests: u32,
    /// Concurrent gRPC calls that stream content.
    pub max_transfers: u32,
    /// Requests per second from one IPv4 address or IPv6 network (/64); `None` or 0 for no limit.
    pub max_address_rate: Option<u32>,
}

/// Cross-origin resource sharing (CORS).
#[derive(Clone, Debug)]
pub struct CorsSettings {
    /// Origins of the pages that may call the API.
    pub origins: Allowed<HeaderValue>,
    /// Request headers that pages may send.
    pub headers: Allowed<HeaderName>,
    /// How long browsers may cache the answer to a preflight request.
    pub max_age: Duration,
}

impl CorsSettings {
    /// Returns the first allowed origin; `None` if every origin or no origin is allowed.
    pub(super) fn first_origin(&self) -> Option<&HeaderValue> {
        match &self.origins {
            Allowed::Any => None,
            Allowed::Only(origins) => origins.first(),
        }
    }
}

/// A set of allowed values.
#[derive(Clone, Debug)]
pub enum Allowed<T> {
    /// All values.
    Any,
    /// Only these values.
    Only(Vec<T>),
}

/// Settings of a listener.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Timeout for the head of a request, and for the TLS handshake.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long a client may pause while it receives a response.
    pub write_timeout: Duration,
    /// How long running requests may continue on shutdown.
    pub shutdown_grace: Duration,
    /// Minimum rate at which a client must receive a response, in bytes per second; 0 turns the
    /// check off.
    pub min_rate: u64,
    /// How long a client may be slower than `min_rate`.
    pub min_rate_window: Duration,
    /// Largest request head, in bytes.
    pub max_head_bytes: u32,
    /// Concurrent connections. Further connections wait in the accept queue.
    pub max_connections: usize,
    /// Concurrent connections from one IPv4 address or IPv6 network (/64). Further connections are
    /// closed immediately.
    pub max_connections_per_address: usize,
    /// Networks of proxies. `max_connections_per_address` does not apply to their connections.
    pub trusted_proxies: Vec<IpNet>,
}
