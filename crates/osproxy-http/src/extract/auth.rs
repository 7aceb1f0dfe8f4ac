//! Authentication of requests by API key, as an extractor and as middleware.

use std::{marker::PhantomData, net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRef, FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use osproxy_api::ErrorCode;
use osproxy_core::{Authenticator, Caller, ClientAddr, Error, Result};
use osproxy_types::scope::Scope;

use crate::respond::error::{HandlerResult, Rejection};

/// A required scope as a type, for [`Authenticated`].
pub(crate) trait RequiredScope: Send {
    /// The scope that the caller needs.
    const SCOPE: Scope;
}

macro_rules! required_scopes {
    ($($name:ident),*) => {$(
        /// Requires the scope with the same name.
        pub(crate) struct $name;

        impl RequiredScope for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )*};
}

required_scopes!(Upload, Read, Delete, Admin);

/// Extracts the caller before the handler runs. Rejects the request with `Unauthenticated` if the
/// API key is invalid, or if the key is missing and `auth.mode` is not `open`. Rejects the request
/// with `PermissionDenied` if the caller lacks the scope `T`, and with `RateLimited` beyond the
/// rate limit of the key.
pub(crate) struct Authenticated<T> {
    pub(crate) caller: Caller,
    scope: PhantomData<T>,
}

impl<T, S> FromRequestParts<S> for Authenticated<T>
where
    T: RequiredScope,
    S: Send + Sync,
    Arc<Authenticator>: FromRef<S>,
{
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> HandlerResult<Self> {
        let caller = authenticate(&Arc::<Authenticator>::from_ref(state), parts).await?;
        caller.require_scope(T::SCOPE)?;
        Ok(Self { caller, scope: PhantomData })
    }
}

/// Authenticates a request and adds the [`Caller`] to its extensions.
pub(crate) async fn insert_caller(
    State(authenticator): State<Arc<Authenticator>>,
    request: Request,
    next: Next,
) -> HandlerResult<Response> {
    let (mut parts, body) = request.into_parts();
    let caller = authenticate(&authenticator, &parts).await?;
    parts.extensions.insert(caller);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// Returns the address of the client, which may be behind trusted proxies.
pub(crate) fn client_address(request: &Parts) -> Option<IpAddr> {
    request.extensions.get::<ClientAddr>().map(|client| client.0)
}

/// Returns the caller of a request. Fails with `Unauthenticated` or `RateLimited`.
pub(crate) async fn authenticate(authenticator: &Authenticator, request: &Parts) -> Result<Caller> {
    authenticator.authenticate(bearer_token(&request.headers)?).await
}

/// Returns the token of `Authorization: Bearer TOKEN`. Ignores other schemes. Fails with
/// `Unauthenticated` if there are several `Authorization` headers.
fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(header::AUTHORIZATION) {
            Err(Error::new(
                ErrorCode::Unauthenticated,
                "the request has more than one `Authorization` header; send only one",
            ))
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
    fn the_token_is_in_a_single_bearer_header() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            headers
        };
        assert_eq!(bearer_token(&headers(&[])).unwrap(), None);
        assert_eq!(bearer_token(&headers(&["Bearer x"])).unwrap(), Some("x"));
        assert_eq!(bearer_token(&headers(&["bEARER   x "])).unwrap(), Some("x"));
        for other in ["Basic eDp5", "Bearer", "osk_x"] {
            assert_eq!(bearer_token(&headers(&[other])).unwrap(), None, "{other}");
        }
        assert!(bearer_token(&headers(&["Bearer x", "Bearer y"])).is_err());
    }
}
