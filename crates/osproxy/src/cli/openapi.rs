//! `osproxy openapi`: prints the OpenAPI document.

use std::io::Write;

use osproxy_http::openapi::document;

/// Prints the OpenAPI document that the service publishes at `/openapi.json`.
pub fn run() -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(document().as_bytes())?)
}
