//! The listeners of a node and the routes that they serve.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::future::join4;
use osproxy_core::App;
use osproxy_http::{
    AccessLog, ForwardedS3, GrpcRoutes, HttpSettings, ListenerSettings, RequestLimiter, listener::Tls,
};
use tokio::{net::TcpListener, runtime::Handle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::bootstrap_key::BootstrapKey;
use crate::{
    config::{Config, S3ApiSection, ServerSection, TlsSection},
    wiring::http::{http_settings, listener_settings},
};

/// Maximum number of connections to the admin listener, which has few clients.
const ADMIN_CONNECTIONS: u16 = 64;

/// A listener with its TLS configuration.
struct TlsListener {
    listener: TcpListener,
    tls: Option<Tls>,
}

/// Tells listeners to drain.
#[derive(Clone)]
pub(super) struct DrainSignal {
    /// Cancelled when the listeners must close.
    pub(super) shutdown: CancellationToken,
    /// How long a connected client may take to send its first request after `shutdown`.
    pub(super) last_requests: Duration,
}

/// All listeners of a node.
pub(super) struct Listeners {
    main: TlsListener,
    /// Serves gRPC only.
    grpc: Option<TlsListener>,
    /// Serves the S3 API only.
    s3: Option<TlsListener>,
    admin: Option<TcpListener>,
}

impl Listeners {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            main: TlsListener::open(config.listen_address()?, &config.tls).await?,
            grpc: match config.grpc.listen_address()? {
                Some(address) => Some(TlsListener::open(address, &config.grpc.tls).await?),
                None => None,
            },
            s3: match config.s3_api.listen_address()? {
                Some(address) => Some(TlsListener::open(address, &config.s3_api.tls).await?),
                None => None,
            },
            admin: match config.admin.listen_address()? {
                Some(address) => Some(listen(address).await?),
                None => None,
            },
        })
    }

    /// Address of the main listener.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.main.listener.local_addr()?)
    }

    /// Logs the addresses, and prints the line that tells scripts that the service is ready.
    pub(super) fn announce_ready(&self, bootstrap_key: Option<&BootstrapKey>) -> anyhow::Result<()> {
        if let Some(admin) = &self.admin {
            tracing::info!(address = %admin.local_addr()?, "admin listener started");
        }
        if let Some(TlsListener { listener, .. }) = &self.grpc {
            tracing::info!(address = %listener.local_addr()?, "gRPC listener started");
        }
        if let Some(TlsListener { listener, .. }) = &self.s3 {
            tracing::info!(address = %listener.local_addr()?, "S3 listener started");
        }
        let scheme = if self.main.tls.is_some() { "https" } else { "http" };
        let mut line = format!("osproxy is ready on {scheme}://{}", self.address()?);
        if let Some(BootstrapKey { key, path }) = bootstrap_key {
            let _ = write!(line, " (API key {}, kept in {})", key.reveal(), path.display());
        }
        crate::cli::print_line(&line);
        Ok(())
    }

    /// Serves until `drain` is signalled and all listeners are drained. Connections run on the
    /// runtime `connections`, except those of the admin listener, which run on the current runtime.
    pub(super) async fn serve(
        self,
        app: &Arc<App>,
        config: &Config,
        access_log: Arc<dyn AccessLog>,
        connections: &Handle,
        drain: &DrainSignal,
    ) -> anyhow::Result<()> {
        let osproxy_grpc::Services { reads, changes, transfers, anonymous: open } =
            osproxy_grpc::services(app)?;
        let grpc_routes = GrpcRoutes { reads, changes, transfers, open };
        let (main_grpc_routes, separate_grpc) = match self.grpc {
            Some(listener) => (GrpcRoutes::default(), Some((listener, grpc_routes))),
            None => (grpc_routes, None),
        };
        let settings = http_settings(config, Some(access_log));
        let limiter = RequestLimiter::new(settings.limits);
        let s3 = self.s3.map(|listener| (listener, s3_router(app, config, &settings, &limiter)));
        let forwarded = s3
            .as_ref()
            .map(|(_, router)| ForwardedS3 { header: osproxy_s3::FORWARDED, router: router.clone() });
        let main = self.main.serve(
            osproxy_http::router(app.clone(), &settings, &limiter, main_grpc_routes, forwarded),
            listener_settings(&config.server),
            drain.clone(),
        );
        let grpc = async {
            if let Some((listener, routes)) = separate_grpc {
                let router = osproxy_http::grpc_router(app.clone(), &settings, &limiter, routes);
                let served = listener.serve(router, listener_settings(&config.server), drain.clone());
                run_on(connections, served).await;
            }
        };
        let s3_api = async {
            if let Some((listener, router)) = s3 {
                let served = listener.serve(router, listener_settings(&config.server), drain.clone());
                run_on(connections, served).await;
            }
        };
        let admin = async {
            if let Some(listener) = self.admin {
                let router = osproxy_http::admin_router(app.clone(), &settings);
                let section = ServerSection { max_connections: ADMIN_CONNECTIONS, ..config.server.clone() };
                let plain = TlsListener { listener, tls: None };
                plain.serve(router, listener_settings(&section), drain.clone()).await;
            }
        };
        join4(run_on(connections, main), grpc, s3_api, admin).await;
        Ok(())
    }
}

/// Builds the router of the S3 listener.
fn s3_router(
    app: &Arc<App>,
    config: &Config,
    settings: &HttpSettings,
    limiter: &Arc<RequestLimiter>,
) -> axum::Router {
    let S3ApiSection { domain, region, tls, .. } = &config.s3_api;
    let s3_settings = osproxy_s3::Settings { domain: domain.clone(), region: region.clone() };
    let operations = osproxy_s3::router(app, s3_settings.clone());
    let settings = HttpSettings { is_tls: tls.is_enabled(), ..settings.clone() };
    let render = osproxy_s3::render_error;
    let router = osproxy_http::s3_router(app.clone(), &settings, limiter, operations, render);
    osproxy_s3::with_cors(router, app, &s3_settings)
}

impl TlsListener {
    async fn open(address: SocketAddr, tls: &TlsSection) -> anyhow::Result<Self> {
        let listener = listen(address).await?;
        let tls = match tls.files().map_err(anyhow::Error::msg)? {
            Some(files) => Some(tokio::task::spawn_blocking(move || Tls::load(files)).await?),
            None => None,
        };
        Ok(Self { listener, tls: tls.transpose().map_err(anyhow::Error::msg)? })
    }

    async fn serve(self, router: axum::Router, settings: ListenerSettings, drain: DrainSignal) {
        let DrainSignal { shutdown, last_requests } = drain;
        osproxy_http::listener::serve(self.listener, router, settings, self.tls, shutdown, last_requests)
            .await;
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Runs a server on another runtime and waits for it. Dropping the future aborts the server.
async fn run_on(runtime: &Handle, server: impl Future<Output = ()> + Send + 'static) {
    let server = AbortOnDropHandle::new(runtime.spawn(server));
    if let Err(ended) = server.await
        && let Ok(panic) = ended.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}
