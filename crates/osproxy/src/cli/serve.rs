//! `osproxy serve`

use std::time::Duration;

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{app::App, config::Loaded, http, ops, telemetry};

/// Most threads that hash, write, sync and read from the disk at the same time. Work beyond that queues; none of it
/// ever waits for a client.
const BLOCKING_THREADS: usize = 64;

/// How long cleaning up may take once all requests have ended.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends the process at once.
pub fn run(loaded: Loaded) -> anyhow::Result<()> {
    let _flush = telemetry::init(&loaded.config.log).context("cannot start the log")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(loaded))
}

async fn serve(Loaded { config, warnings }: Loaded) -> anyhow::Result<()> {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let signals = Signals::listen()?;
    let app = App::open(&config).await?;
    let address = config.listen()?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "ready");
    super::say(&format!("osproxy is ready on http://{address}"));

    let sweeper = tokio::spawn(ops::sweep::run_forever(app.clone()));
    let shutdown = CancellationToken::new();
    let body_timeout = Duration::from_secs(config.server.body_timeout);
    let router = http::router(app.clone(), body_timeout);
    let server = http::server::serve(listener, router, &config.server, shutdown.clone());
    let stop = async {
        signals.first().await;
        shutdown.cancel();
        // Never ends: the server does.
        signals.second().await;
    };
    tokio::select! {
        () = server => {}
        () = stop => {}
    }
    sweeper.abort();
    app.background.close();
    if tokio::time::timeout(CLEAN_UP, app.background.wait()).await.is_err() {
        tracing::warn!("cleaning up did not end in time; the next start does it");
    }
    tracing::info!("stopped");
    Ok(())
}

struct Signals {
    received: tokio::sync::watch::Receiver<u32>,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (count, received) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { received })
    }

    async fn first(&self) {
        let _ = self.received.clone().wait_for(|count| *count >= 1).await;
        tracing::info!("stopping: finishing the requests that are running");
    }

    async fn second(&self) {
        let _ = self.received.clone().wait_for(|count| *count >= 2).await;
        tracing::warn!("stopping at once: signalled again");
    }
}
