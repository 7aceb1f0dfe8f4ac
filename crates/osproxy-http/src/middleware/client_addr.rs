//! The address of the client behind trusted proxies.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};
use ipnet::IpNet;
use osproxy_core::{ClientAddr, X_FORWARDED_FOR};

use crate::extract::forwarded;

/// Returns the address of the client. A proxy adds the address from which it received the request
/// to the end of a header. So the client is the last address in this header that is not `trusted`;
/// earlier addresses may be forged. If all addresses are trusted, the first address is the client.
///
/// Searches the header from its last entry to its first. Returns `peer` if the search meets an
/// entry that is not an address, if the request has no such header, or if `peer` is not trusted.
///
/// Reads `Forwarded` only if the request has no `X-Forwarded-For`. A proxy that maintains one of
/// these headers passes on the other header unchanged, so a client could forge the other header.
pub(super) fn client_addr(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> ClientAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if !is_trusted(&peer) {
        return ClientAddr(peer);
    }
    let addresses = match x_forwarded_for_addresses(headers) {
        addresses if addresses.is_empty() => forwarded_addresses(headers),
        addresses => addresses,
    };
    let mut client = peer;
    for address in addresses.into_iter().rev() {
        let Some(address) = address else { return ClientAddr(peer) };
        client = address;
        if !is_trusted(&client) {
            break;
        }
    }
    ClientAddr(client)
}

/// Returns the addresses in `Forwarded`, in order. An element without an address, and a malformed
/// line, each give one `None`.
fn forwarded_addresses(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(header::FORWARDED).iter();
    lines.flat_map(|line| line.to_str().ok().and_then(forwarded::addresses).unwrap_or(vec![None])).collect()
}

/// Returns the addresses in `X-Forwarded-For`, in order. An entry that is not an address gives
/// `None`.
fn x_forwarded_for_addresses(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or_default());
    lines.flat_map(|line| line.split(',')).map(parse_address).collect()
}

/// Parses an address with an optional port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, fields: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"].map(|net| net.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        client_addr(peer.parse().unwrap(), &headers, &trusted).0.to_string()
    }

    #[test]
    fn headers_of_untrusted_peers_are_ignored() {
        let forged = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(client("8.8.8.8", &forged), "8.8.8.8");
        assert_eq!(client("::ffff:8.8.8.8", &forged), "8.8.8.8");
    }

    #[test]
    fn the_last_untrusted_address_is_the_client() {
        for (field, expected) in [
            ("1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1, 10.1.1.1,192.0.2.1", "1.1.1.1"),
            ("nonsense, 1.1.1.1, 10.1.1.1", "1.1.1.1"),
            ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
            ("1.1.1.1:1234", "1.1.1.1"),
            ("[2001:db8::1]:1234", "2001:db8::1"),
            ("2001:db8::1, fd00::1", "2001:db8::1"),
            ("::ffff:1.1.1.1", "1.1.1.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", field)]), expected, "{field}");
            assert_eq!(client("::ffff:10.0.0.1", &[("x-forwarded-for", field)]), expected, "{field}");
        }
        // Several lines form one list.
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.1.1.1")];
        assert_eq!(client("10.0.0.1", &lines), "1.1.1.1");
    }

    #[test]
    fn forwarded_is_used_only_without_x_forwarded_for() {
        for (field, expected) in [
            ("for=1.1.1.1;proto=http;by=10.0.0.1", "1.1.1.1"),
            ("for=6.6.6.6, For=\"1.1.1.1:80\"", "1.1.1.1"),
            ("for=\"[2001:db8::1]:80\"", "2001:db8::1"),
            ("for=unknown", "10.0.0.1"),
            ("for=_hidden, for=10.2.2.2", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
            ("host=\"a,for=10.1.1.1\";for=8.8.8.8", "8.8.8.8"),
            ("host=\"a, for=8.8.8.8", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("forwarded", field)]), expected, "{field}");
        }
        // A line that a proxy appends is independent of the lines before it.
        let lines = [("forwarded", "host=\"a"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(client("10.0.0.1", &lines), "1.1.1.1");
        // If the proxy's line is malformed, the client's line is not used instead.
        let lines = [("forwarded", "for=6.6.6.6"), ("forwarded", "host=\"a, for=1.1.1.1")];
        assert_eq!(client("10.0.0.1", &lines), "10.0.0.1");
        let both = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=6.6.6.6")];
        assert_eq!(client("10.0.0.1", &both), "1.1.1.1");
    }

    #[test]
    fn an_invalid_entry_makes_the_peer_the_client() {
        for field in ["", "nonsense", "1.1.1.1, nonsense", "1.1.1.1,", "1.1.1", "300.1.1.1", "1.1.1.1:99999"]
        {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", field)]), "10.0.0.1", "{field}");
        }
    }
}
