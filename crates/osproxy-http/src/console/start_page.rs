//! The start page at `/`: what the service is, its state, and links to the API documentation.

use std::{
    fmt::Write,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use osproxy_core::App;
use sha2::{Digest, Sha256};

use crate::{console::health, settings::HttpSettings};

const STYLE: &str = "body{max-width:42rem;margin:3rem auto;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif;\
    color:#222;background:#fff}table{border-collapse:collapse}th{text-align:left;padding-right:2rem}\
    .down{color:#b00020}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8ab4f8}\
    .down{color:#ff8a80}}";

/// Content security policy of the page. Allows only the style sheet and the icon of the page. The
/// icon is an empty `data:` URL; without an icon, browsers would request `/favicon.ico`.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// `GET /`. The response has the status code of `/health/ready`, so that load balancers can use the
/// page as a readiness probe.
pub(crate) async fn start_page(
    State(app): State<Arc<App>>,
    State(settings): State<Arc<HttpSettings>>,
) -> Response {
    let version = settings.version;
    let (status, health) = health::readiness(&app).await;
    let class = if status.is_success() { "ready" } else { "down" };
    let mut state = health.status.to_owned();
    if !health.down.is_empty() {
        let _ = write!(state, " (down: {})", health.down.join(", "));
    }
    let html = format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>osproxy</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<h1>osproxy</h1>
<p>A file-storage service between applications and object stores. An application keeps one uid for each file, requests
signed links, and hands them to its clients, which upload and download the content.</p>
<table>
<tr><th>Version</th><td>{version}</td></tr>
<tr><th>State</th><td class="{class}">{state}</td></tr>
</table>
<ul>
<li><a href="swagger/">Swagger UI</a>: browse and try the API</li>
<li><a href="openapi.json">openapi.json</a>: the OpenAPI document</li>
</ul>
<p>The documentation is in the folder <code>docs/</code> of the repository. Start with its <code>README.md</code>.</p>
</body>
</html>
"#
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, Html(html)).into_response()
}
