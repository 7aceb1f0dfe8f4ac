use std::net::IpAddr;

use ipnet::IpNet;
use osproxy_http::PublicUrl;

use super::value::{Findings, RawValue, SettingValue, section};

section! {
    /// `server`: the HTTP listener.
    ServerSection {
        /// Address and port, such as `127.0.0.1:8888`; port 0 picks a free port. When not set,
        /// `app.port` on 127.0.0.1.
        listen: Option<String> = None,
        /// How long the node continues to serve after SIGTERM, SIGINT or SIGHUP, in seconds. During
        /// this time `/health/ready` reports that the node is not ready, so that load balancers
        /// stop sending requests. When not set, 5 s in a cluster and 0 s on a single node.
        drain_delay: Option<u64> as seconds = None,
        /// How long running requests may continue after `drain_delay`, in seconds.
        shutdown_grace: u64 as seconds = 30,
        /// Timeout for the head of a request, in seconds.
        header_timeout: u64 as seconds = 30,
        /// How long a client may pause while it sends a body, in seconds.
        body_timeout: u64 as seconds = 60,
        /// How long a client may pause while it receives a response, in seconds.
        write_timeout: u64 as seconds = 60,
        /// How long a connection may stay open without a request, in seconds.
        idle_timeout: u64 as seconds = 75,
        /// Minimum rate at which a client must send a body and receive a response, in bytes per
        /// second; 0 turns the check off. Time in which the service itself waits, such as for a
        /// store, does not count.
        min_rate: u64 as bytes = 1024,
        /// How long a client may be slower than `min_rate`, in seconds.
        min_rate_window | rate_window: u64 as seconds = 30,
        /// Networks of trusted proxies, such as `10.0.0.0/8`. Their `X-Forwarded-For` and
        /// `Forwarded` headers give the client address, and their `X-Forwarded-Proto`,
        /// `X-Forwarded-Host` and `X-Forwarded-Port` the URL of the service. Danger: every machine
        /// in these networks can claim any client address.
        trusted_proxies: Vec<IpNet> = Vec::new(),
        /// URL at which clients reach the service, such as `https://files.example.org`, with the
        /// path prefix that a proxy removes, if any. `Location` headers contain it. When not set,
        /// the URL that a trusted proxy reports; without such a proxy, `Location` has only a path.
        public_url: Option<String> = None,
        /// Longest head of a request, in bytes; a head has at most 100 fields.
        max_header_bytes: u32 as bytes = 32 * 1024,
        /// Concurrent connections. Further connections wait to be accepted.
        max_connections: u16 = 4096,
        /// Concurrent connections from one address, or from one IPv6 network of 64 bits; further
        /// connections are closed immediately. Does not apply to addresses in `trusted_proxies`.
        /// When not set, three quarters of `max_connections`.
        max_connections_per_address: Option<u16> = None,
    }
    ignored []
}

impl SettingValue for IpNet {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        let text = String::read(node, path, findings)?;
        let net = text.parse().ok().or_else(|| Some(Self::from(text.parse::<IpAddr>().ok()?)));
        if net.is_none() {
            findings.problem(
                path,
                format_args!("must be an address or a network, such as 10.0.0.0/8, not {text:?}"),
            );
        }
        net
    }
}

/// Longest allowed timeout, in seconds: a day.
const MAX_TIMEOUT: u64 = 24 * 60 * 60;

/// Allowed range of `max_header_bytes`, in bytes.
const MIN_HEADER: u32 = 4 * 1024;
const MAX_HEADER: u32 = 1024 * 1024;

impl ServerSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, seconds, min) in [
            ("drain_delay", self.drain_delay.unwrap_or(0), 0),
            ("shutdown_grace", self.shutdown_grace, 0),
            ("header_timeout", self.header_timeout, 1),
            ("body_timeout", self.body_timeout, 1),
            ("write_timeout", self.write_timeout, 1),
            ("idle_timeout", self.idle_timeout, 1),
            ("min_rate_window", self.min_rate_window, 1),
        ] {
            if !(min..=MAX_TIMEOUT).contains(&seconds) {
                findings.problem(
                    &format!("server.{name}"),
                    format_args!("must be {min} to {MAX_TIMEOUT} seconds"),
                );
            }
        }
        if !(MIN_HEADER..=MAX_HEADER).contains(&self.max_header_bytes) {
            findings.problem("server.max_header_bytes", "must be 4KiB to 1MiB");
        }
        if let Some(url) = &self.public_url
            && PublicUrl::parse(url).is_none()
        {
            let example = "https://files.example.org, without a query";
            findings.problem("server.public_url", format_args!("{url:?} must be a URL, such as {example}"));
        }
        if self.max_connections == 0 {
            findings.problem("server.max_connections", "must be at least 1");
        }
        if self.max_connections_per_address == Some(0) {
            findings.problem("server.max_connections_per_address", "must be at least 1");
        }
    }

    /// Maximum number of connections from one address: at least 1, at most `max_connections`.
    pub fn connections_per_address(&self) -> usize {
        let of_address = self.max_connections_per_address.unwrap_or(self.max_connections / 4 * 3).max(1);
        of_address.min(self.max_connections).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_have_all() {
        for (all, most) in [(4096, 3072), (64, 48), (4, 3), (3, 1), (1, 1)] {
            let section = ServerSection { max_connections: all, ..ServerSection::default() };
            assert_eq!(section.connections_per_address(), most);
        }
    }
}
