//! Swagger UI from the binary: the document of `/openapi.json` to read and to try out, without anything from elsewhere.

use std::sync::Arc;

use axum::{
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use osproxy_api::ErrorCode;
use utoipa_swagger_ui::Config;

use crate::{Error, Result};

/// The pages run their own scripts and ask this service, nobody else. The program sets styles from scripts, and draws its
/// icons from `data:`.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// `GET /swagger`: what the page refers to lies beside it, below the slash. Relative, so that a proxy may put all of it elsewhere.
pub(super) async fn redirect() -> Redirect {
    Redirect::permanent("swagger/")
}

/// `GET /swagger/`
pub(super) async fn index() -> Result<Response> {
    respond("index.html")
}

/// `GET /swagger/{file}`
pub(super) async fn file(uri: Uri) -> Result<Response> {
    // As it stands in the URL: no name of a file has anything to decode.
    respond(uri.path().rsplit('/').next().unwrap_or_default())
}

fn respond(file: &str) -> Result<Response> {
    // Its validator is a site on the internet.
    let config = Config::from("../openapi.json").validator_url("none");
    let file = utoipa_swagger_ui::serve(file, Arc::new(config))
        .map_err(|error| Error::internal(error.to_string()))?
        .ok_or_else(|| Error::new(ErrorCode::UnknownRoute, "there is nothing at this path"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::try_from(file.content_type).map_err(Error::internal)?),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Another version has other files of the same names.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    // Most files stand in the binary, and are not copied.
    let body = match file.bytes {
        std::borrow::Cow::Borrowed(bytes) => axum::body::Body::from(bytes),
        std::borrow::Cow::Owned(bytes) => axum::body::Body::from(bytes),
    };
    Ok((headers, body).into_response())
}
