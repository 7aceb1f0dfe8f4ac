//! Swagger UI for `/openapi.json`. The files of Swagger UI are embedded in the binary; nothing is
//! loaded from other hosts.

use std::sync::Arc;

use axum::{
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use osproxy_api::ErrorCode;
use osproxy_core::Error;
use utoipa_swagger_ui::Config;

use crate::respond::error::HandlerResult;

/// Content security policy of Swagger UI. Allows scripts, styles, images and requests of this
/// origin only. Also allows inline styles, which scripts of Swagger UI set, and images in `data:`
/// URLs, such as the icons of Swagger UI.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// `GET /swagger`. The page refers to its files by relative URLs, which need the trailing slash.
/// The redirect is relative too, so that a proxy can serve Swagger UI under another path.
pub(crate) async fn redirect() -> Redirect {
    Redirect::permanent("swagger/")
}

/// `GET /swagger/`
pub(crate) async fn index() -> HandlerResult<Response> {
    respond("index.html")
}

/// `GET /swagger/{file}`
pub(crate) async fn file(uri: Uri) -> HandlerResult<Response> {
    // No file name needs percent-decoding.
    respond(uri.path().rsplit('/').next().unwrap_or_default())
}

fn respond(file: &str) -> HandlerResult<Response> {
    // By default, Swagger UI sends the document to a validator on a public web site.
    let config = Config::from("../openapi.json").validator_url("none");
    let file = utoipa_swagger_ui::serve(file, Arc::new(config))
        .map_err(|error| Error::internal(error.to_string()))?
        .ok_or_else(|| Error::new(ErrorCode::UnknownRoute, "unknown path"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::try_from(file.content_type).map_err(Error::internal)?),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Another version of osproxy may have different files under the same names.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    // Avoids a copy of files that are embedded in the binary.
    let body = match file.bytes {
        std::borrow::Cow::Borrowed(bytes) => axum::body::Body::from(bytes),
        std::borrow::Cow::Owned(bytes) => axum::body::Body::from(bytes),
    };
    Ok((headers, body).into_response())
}
