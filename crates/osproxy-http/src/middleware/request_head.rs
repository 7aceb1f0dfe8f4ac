//! Checks of the request head: size, syntax and `Host`.

use axum::{
    extract::Request,
    http::{StatusCode, Version, header, uri::Authority},
};
use osproxy_api::ErrorCode;
use osproxy_core::{Error, Result};

use crate::{listener::UnparsableHead, settings::HttpSettings};

/// Maximum number of header fields of a request. Hyper has the same limit for HTTP/1, but none for
/// HTTP/2.
const MAX_FIELDS: usize = 100;
/// Bytes that HTTP/1 adds to a header field: `: ` and CRLF.
const FIELD_OVERHEAD: usize = 4;

/// Fails if the head of a request is too large or malformed.
pub(super) fn check_head(settings: &HttpSettings, request: &Request) -> Result<()> {
    check_readable(settings, request)?;
    check_size(settings, request)?;
    check_host(request)
}

fn too_large(settings: &HttpSettings) -> Error {
    let max = settings.max_head_bytes;
    let message = format!("the request head exceeds {max} bytes or {MAX_FIELDS} header fields");
    Error::new(ErrorCode::HeaderTooLarge, message)
}

/// Fails if `request` is the placeholder that the listener creates for a head that hyper cannot
/// parse.
fn check_readable(settings: &HttpSettings, request: &Request) -> Result<()> {
    match request.extensions().get() {
        None => Ok(()),
        Some(UnparsableHead(StatusCode::BAD_REQUEST)) => {
            Err(Error::invalid("the head of the request is malformed"))
        }
        Some(UnparsableHead(_)) => Err(too_large(settings)),
    }
}

fn check_size(settings: &HttpSettings, request: &Request) -> Result<()> {
    let headers = request.headers();
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if headers.len() > MAX_FIELDS || target + fields.sum::<usize>() > settings.max_head_bytes as usize {
        return Err(too_large(settings));
    }
    Ok(())
}

/// Fails with `InvalidArgument` unless the request has exactly one valid `Host` (RFC 9112, section
/// 3.2). HTTP/1.0 and HTTP/2 requests may omit `Host`; in HTTP/2, `Host` must equal `:authority` if
/// both are present.
fn check_host(request: &Request) -> Result<()> {
    let reject = |message| Err(Error::invalid(message).with_field("host"));
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => return reject("`Host` is missing"),
        (None, _) => return Ok(()),
        (Some(_), Some(_)) => return reject("`Host` is given twice"),
        (Some(host), None) => host,
    };
    let parsed = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    let is_host =
        |host: &Authority| !host.host().is_empty() && !host.as_str().contains('@') && has_port(host);
    let Some(host) = parsed.filter(is_host) else {
        return reject("`Host` must be a host name or an IP address, with an optional port");
    };
    match request.uri().authority() {
        Some(authority) if request.version() == Version::HTTP_2 && *authority != host => {
            reject("`Host` and `:authority` differ")
        }
        _ => Ok(()),
    }
}

/// Whether the part after the host is empty, a colon alone, or a colon with a valid port.
fn has_port(host: &Authority) -> bool {
    let rest = host.as_str().strip_prefix(host.host()).unwrap_or_default();
    rest.is_empty() || rest == ":" || host.port_u16().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn check(version: Version, uri: &str, hosts: &[&[u8]]) -> bool {
        let mut request = Request::builder().uri(uri).version(version).body(Body::empty()).unwrap();
        for host in hosts {
            request.headers_mut().append(header::HOST, header::HeaderValue::from_bytes(host).unwrap());
        }
        check_host(&request).is_ok()
    }

    #[test]
    fn requests_need_one_valid_host() {
        for valid in
            ["x", "files.example.org", "files.example.org:8888", "127.0.0.1:80", "[::1]", "[::1]:8888", "x:"]
        {
            assert!(check(Version::HTTP_11, "/", &[valid.as_bytes()]), "{valid}");
        }
        for invalid in [
            &b""[..],
            b" ",
            b"a b",
            b"a/b",
            b"u@x",
            b"x:80:90",
            b"x:port",
            b"x:99999",
            b"[::1",
            b"\xff",
            b"a?b",
        ] {
            assert!(!check(Version::HTTP_11, "/", &[invalid]), "{}", String::from_utf8_lossy(invalid));
        }
        assert!(!check(Version::HTTP_11, "/", &[]));
        assert!(!check(Version::HTTP_11, "/", &[b"x", b"x"]));
        assert!(check(Version::HTTP_10, "/", &[]));
        assert!(!check(Version::HTTP_10, "/", &[b"x", b"y"]));
        assert!(check(Version::HTTP_2, "http://x:80/", &[]));
        assert!(check(Version::HTTP_2, "http://x:80/", &[b"x:80"]));
        assert!(!check(Version::HTTP_2, "http://x:80/", &[b"y"]));
    }
}
