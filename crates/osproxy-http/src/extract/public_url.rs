//! The URL at which clients reach the service, which may be behind proxies.

use std::net::IpAddr;

use axum::http::{
    HeaderMap, Uri,
    request::Parts,
    uri::{Authority, Scheme},
};
use ipnet::IpNet;

use crate::{listener::RemoteAddr, settings::HttpSettings};

/// The URL at which clients reach the service: scheme, host, and possibly a port and a path prefix.
/// Has no slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Parses an `http` or `https` URL. Returns `None` if it is not such a URL, or has a user, a
    /// query or a fragment.
    pub fn parse(text: &str) -> Option<Self> {
        let url = text.parse::<Uri>().ok().filter(|_| !text.contains(['?', '#']))?;
        let scheme = url.scheme()?;
        let is_http = *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
        authority(url.authority()?.as_str())?;
        is_http.then(|| Self(text.trim_end_matches('/').to_owned()))
    }

    /// Returns the URL that the proxy in front of this node reports. Returns `None` if `peer` is not
    /// `trusted`, or unless the request has exactly one scheme and one host.
    fn forwarded(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Option<Self> {
        let peer = peer.to_canonical();
        if !trusted.iter().any(|net| net.contains(&peer)) {
            return None;
        }
        let default_port = match single(headers, "x-forwarded-proto")? {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let scheme = if default_port == 80 { "http" } else { "https" };
        let host = authority(single(headers, "x-forwarded-host")?)?;
        let port = if headers.contains_key("x-forwarded-port") {
            Some(single(headers, "x-forwarded-port")?.parse::<u16>().ok()?)
        } else {
            None
        };
        let port = port.filter(|port| host.port().is_none() && *port != default_port);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        Some(Self(format!("{scheme}://{host}{port}")))
    }
}

/// Makes a path absolute with `server.public_url`, or with the URL that a trusted proxy reports.
/// Returns the path unchanged if neither is known. Never uses the header `Host`, which the client
/// may have chosen.
pub(crate) fn absolute(settings: &HttpSettings, request: &Parts, path: String) -> String {
    let forwarded = || {
        let RemoteAddr(peer) = request.extensions.get::<RemoteAddr>()?;
        PublicUrl::forwarded(peer.ip(), &request.headers, &settings.trusted_proxies)
    };
    match settings.public_url.clone().or_else(forwarded) {
        Some(PublicUrl(base)) => base + &path,
        None => path,
    }
}

/// Returns the value of a header. Returns `None` if there are several values: an earlier one may be
/// forged, and a later one may be that of an inner proxy.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

/// Parses a host with an optional port.
fn authority(text: &str) -> Option<Authority> {
    let authority = text.parse::<Authority>().ok()?;
    let host = authority.host();
    let is_name = !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_address = bracketed.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    // An invalid port is no port for `Authority`.
    let port = authority.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    ((is_name || is_address) && text == format!("{host}{port}")).then_some(authority.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_may_have_a_port_and_a_prefix() {
        for (text, expected) in [
            ("https://files.example.org", "https://files.example.org"),
            ("https://files.example.org/", "https://files.example.org"),
            ("http://10.0.0.1:8080/store/files/", "http://10.0.0.1:8080/store/files"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ] {
            assert_eq!(PublicUrl::parse(text), Some(PublicUrl(expected.to_owned())), "{text}");
        }
        for bad in [
            "",
            "files.example.org",
            "/files",
            "ftp://files.example.org",
            "https://",
            "https:///files",
            "https://user@files.example.org",
            "https://files.example.org?a=b",
            "https://files.example.org#a",
            "https://files.example.org:99999",
            "https://files example.org",
        ] {
            assert_eq!(PublicUrl::parse(bad), None, "{bad}");
        }
    }

    fn forwarded(peer: &str, fields: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        PublicUrl::forwarded(peer.parse().unwrap(), &headers, &trusted).map(|PublicUrl(url)| url)
    }

    #[test]
    fn a_trusted_proxy_reports_the_url() {
        const PROTO: &str = "x-forwarded-proto";
        const HOST: &str = "x-forwarded-host";
        const PORT: &str = "x-forwarded-port";
        for (fields, expected) in [
            (&[(PROTO, "https"), (HOST, "a.example")][..], "https://a.example"),
            (&[(PROTO, "http"), (HOST, "a.example:8080")], "http://a.example:8080"),
            (&[(PROTO, "https"), (HOST, "a.example"), (PORT, "443")], "https://a.example"),
            (&[(PROTO, "https"), (HOST, "a.example"), (PORT, "8443")], "https://a.example:8443"),
            (&[(PROTO, "http"), (HOST, "a.example"), (PORT, "443")], "http://a.example:443"),
            (&[(PROTO, "https"), (HOST, "a.example:1"), (PORT, "8443")], "https://a.example:1"),
            (&[(PROTO, "https"), (HOST, "[2001:db8::1]"), (PORT, "1")], "https://[2001:db8::1]:1"),
        ] {
            assert_eq!(forwarded("10.1.1.1", fields).as_deref(), Some(expected), "{fields:?}");
            assert_eq!(forwarded("::ffff:10.1.1.1", fields).as_deref(), Some(expected), "{fields:?}");
            assert_eq!(forwarded("8.8.8.8", fields), None, "{fields:?}");
        }
        for fields in [
            &[(PROTO, "https")][..],
            &[(HOST, "a.example")],
            &[("host", "a.example"), (PROTO, "https")],
            &[(PROTO, "ftp"), (HOST, "a.example")],
            &[(PROTO, "https, http"), (HOST, "a.example")],
            &[(PROTO, "https"), (PROTO, "http"), (HOST, "a.example")],
            &[(PROTO, "https"), (HOST, "evil.example, a.example")],
            &[(PROTO, "https"), (HOST, "evil.example"), (HOST, "a.example")],
            &[(PROTO, "https"), (HOST, "user@a.example")],
            &[(PROTO, "https"), (HOST, "a.example/evil")],
            &[(PROTO, "https"), (HOST, "")],
            &[(PROTO, "https"), (HOST, "a.example:99999")],
            &[(PROTO, "https"), (HOST, "a.example:")],
            &[(PROTO, "https"), (HOST, "a.example"), (PORT, "x")],
        ] {
            assert_eq!(forwarded("10.1.1.1", fields), None, "{fields:?}");
        }
    }
}
