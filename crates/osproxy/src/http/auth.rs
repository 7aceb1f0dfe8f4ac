//! Who asks, of routes that applications use.

use std::{marker::PhantomData, net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, header, request::Parts},
    middleware::Next,
    response::Response,
};
use osproxy_api::ErrorCode;

use super::server::Peer;
use crate::{
    Error, Result,
    api_key::Scope,
    app::{App, Caller, ClientAddr},
};

/// What a proxy adds to the requests that it hands on.
pub(super) const OF_PROXIES: [HeaderName; 5] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// A scope, as a type.
pub(super) trait Needs: Send {
    /// The scope.
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($name:ident),*) => {$(
        /// Callers with the scope of this name.
        pub(super) struct $name;

        impl Needs for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )*};
}

needs!(Upload, Read, Delete, Admin);

/// Who asks, with this scope. Others are refused before anything is looked at.
pub(super) struct By<S> {
    /// Who.
    pub(super) caller: Caller,
    scope: PhantomData<S>,
}

impl<S: Needs> FromRequestParts<Arc<App>> for By<S> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let caller = caller(app, parts).await?;
        caller.must_have(S::SCOPE)?;
        Ok(Self { caller, scope: PhantomData })
    }
}

/// Finds out who asks, for routes that have it among the extensions of their requests: a [`Caller`].
pub(super) async fn identify(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let caller = caller(&app, &parts).await?;
    parts.extensions.insert(caller);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// The address of who sends a request, or has a trusted proxy send it.
pub(super) fn client_address(request: &Parts) -> Option<IpAddr> {
    request.extensions.get::<ClientAddr>().map(|client| client.0)
}

/// Whether a request comes from this machine, and no proxy on it hands it on for somebody else.
pub(super) fn is_of_this_machine(peer: Option<Peer>, headers: &HeaderMap) -> bool {
    let is_local = peer.is_some_and(|Peer(peer)| peer.ip().to_canonical().is_loopback());
    is_local && !OF_PROXIES.iter().any(|name| headers.contains_key(name))
}

/// Whether a page of another site has a browser on this machine send a request: one that says so, or one whose site claims
/// to be this machine. It could not read what comes back of the first, but does of the second.
fn is_of_another_site(request: &Parts) -> bool {
    let headers = &request.headers;
    let named = request.uri.host().or_else(|| headers.get(header::HOST)?.to_str().ok());
    if !named.is_none_or(is_name_of_this_machine) {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let site = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    site.is_none() || site != host
}

/// Whether a host, with or without a port, is this machine whoever is asked for it: an address, or the name that is nobody
/// else's.
fn is_name_of_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Who sends a request.
pub(super) async fn caller(app: &App, request: &Parts) -> Result<Caller> {
    let peer = request.extensions.get::<Peer>().copied();
    let is_local = is_of_this_machine(peer, &request.headers) && !is_of_another_site(request);
    app.authenticate(token(&request.headers)?, is_local).await
}

/// The token of `Authorization: Bearer TOKEN`. Other ways to log in are as good as none.
fn token(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return if headers.contains_key(header::AUTHORIZATION) {
            Err(Error::new(ErrorCode::Unauthenticated, "there must be one `Authorization`"))
        } else {
            Ok(None)
        };
    };
    let text = value.to_str().unwrap_or_default();
    let token = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Ok(token.map(|(_, token)| token.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_an_address_or_localhost_is_this_machine_for_sure() {
        for host in
            ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8888", "[::1]:8888", "[::1]", "192.0.2.1"]
        {
            assert!(is_name_of_this_machine(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8888",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            ":80",
        ] {
            assert!(!is_name_of_this_machine(host), "{host}");
        }
    }

    #[test]
    fn a_token_is_one_and_of_a_bearer() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            headers
        };
        assert_eq!(token(&headers(&[])).unwrap(), None);
        assert_eq!(token(&headers(&["Bearer x"])).unwrap(), Some("x"));
        assert_eq!(token(&headers(&["bEARER   x "])).unwrap(), Some("x"));
        for other in ["Basic eDp5", "Bearer", "osk_x"] {
            assert_eq!(token(&headers(&[other])).unwrap(), None, "{other}");
        }
        assert!(token(&headers(&["Bearer x", "Bearer y"])).is_err());
    }
}
