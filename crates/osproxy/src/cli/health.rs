//! `osproxy health`: asks a running node whether it is ready.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;

use crate::config::{Config, LoadedConfig};

/// Timeout of the request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of `osproxy health`.
#[derive(Args)]
pub struct HealthArgs {
    /// URL of the node, such as `http://10.0.0.7:8888` [default: the node with this configuration
    /// on this machine].
    #[arg(long)]
    url: Option<String>,
    /// Exit 0 even while uploads are refused. Use this in health checks that restart the service: a
    /// restart does not free disk space.
    #[arg(long)]
    reads: bool,
}

/// Response body of `/health/ready`.
#[derive(Deserialize)]
struct Readiness {
    status: String,
    #[serde(default)]
    down: Vec<String>,
    uploads: Option<String>,
}

/// Exit code of a node that serves reads but refuses uploads.
const REFUSES_UPLOADS: u8 = 5;

/// Asks a running node whether it is ready. Fails if it is not ready or does not answer.
pub fn run(loaded: &LoadedConfig, options: HealthArgs) -> anyhow::Result<ExitCode> {
    // With `--url`, the certificate must match the host name. Without `--url`, the certificate is
    // not checked, because the request stays on this machine.
    let is_own = options.url.is_none();
    let url = options.url.map_or_else(|| own_url(&loaded.config), Ok)?;
    super::block_on(query_readiness(url.trim_end_matches('/'), is_own, options.reads))
}

async fn query_readiness(url: &str, is_own: bool, reads: bool) -> anyhow::Result<ExitCode> {
    // reqwest needs a crypto provider even for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .tls_danger_accept_invalid_certs(is_own);
    let response = client.build()?.get(format!("{url}/health/ready")).send().await;
    let response = response.with_context(|| format!("{url} does not answer"))?;
    let status = response.status();
    let Ok(Readiness { status: status_text, down, uploads }) = response.json().await else {
        bail!("{url} answers {status}, but does not seem to be osproxy; check the URL");
    };
    let mut summary =
        if down.is_empty() { status_text } else { format!("{status_text}; down: {}", down.join(", ")) };
    if let Some(uploads) = &uploads {
        summary = format!("{summary}; uploads: {uploads}");
    }
    if !status.is_success() {
        bail!("{url} is not ready: {summary}");
    }
    super::print_line(&summary);
    let code = if uploads.is_some() && !reads { REFUSES_UPLOADS } else { 0 };
    Ok(ExitCode::from(code))
}

/// The URL of the node with this configuration on this machine. Prefers the admin listener, which
/// requires no client certificate.
fn own_url(config: &Config) -> anyhow::Result<String> {
    let admin = config.admin.listen_address()?;
    if admin.is_none() && config.tls.client_ca.is_some() {
        bail!(
            "the node requires client certificates (`tls.client_ca`), and this command has none; set \
             `admin.listen`, which serves health checks over plain HTTP"
        );
    }
    let scheme = if admin.is_none() && config.tls.is_enabled() { "https" } else { "http" };
    let mut address = admin.map_or_else(|| config.listen_address(), Ok)?;
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => address.set_ip(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        _ => {}
    }
    Ok(format!("{scheme}://{address}"))
}
