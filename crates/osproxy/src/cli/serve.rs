//! `osproxy serve`

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    net::TcpListener,
    runtime::{Handle, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    app::App,
    config::{Config, Loaded, ServerSection, TasksSection},
    http::{self, server::Tls},
    tasks::{self, Engine},
    telemetry,
};

/// Most threads of a runtime that hash, write, sync and read from the disk at the same time. Work beyond that queues; none of it
/// ever waits for a client.
const BLOCKING_THREADS: usize = 64;

/// How long a node among others goes on serving while it says that it is not ready, in seconds.
const DRAIN: u64 = 5;

/// How long the first request of a new connection may take when the node stops; not awaited where nothing is drained.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Most connections to the second listener, which has few callers.
const ADMIN_CONNECTIONS: u16 = 64;

/// How long cleaning up may take once all requests have ended.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// Listens for clients, unless others would be served and everyone let in.
async fn listen_guarded(app: &App, address: SocketAddr) -> anyhow::Result<TcpListener> {
    if !address.ip().is_loopback() && !app.is_open() && !app.has_api_keys().await? {
        bail!(
            "{address} can be reached by others, and there are no API keys: make one with `osproxy key create`, \
             listen on loopback, or write `auth.mode: open` to serve everyone"
        );
    }
    listen(address).await
}

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends the process at once.
pub fn run(loaded: Loaded) -> anyhow::Result<()> {
    let _flush =
        telemetry::init(&loaded.config.log, &loaded.config.telemetry).context("cannot start the log")?;
    // What is written, and tasks, go on beside connections, however many of these there are.
    let (work, connections) = (runtime()?, runtime()?);
    work.block_on(serve(loaded, connections.handle()))
}

fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    runtime.context("cannot start the runtime")
}

async fn serve(Loaded { config, warnings }: Loaded, connections: &Handle) -> anyhow::Result<()> {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let signals = Signals::listen()?;
    let app = App::open(&config).await?;
    let listener = listen_guarded(&app, config.listen()?).await?;
    let address = listener.local_addr()?;
    let admin = match config.admin.address()? {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let section = config.tls.clone();
    let tls = tokio::task::spawn_blocking(move || Tls::open(&section)).await?.map_err(anyhow::Error::msg)?;
    // It may have to look up a name.
    let settings = config.clone();
    let advertised = tokio::task::spawn_blocking(move || advertised(&settings, address)).await??;
    tracing::info!(%address, node = app.node, version = env!("CARGO_PKG_VERSION"), "ready");
    app.announce(advertised).await;
    let scheme = if tls.is_some() { "https" } else { "http" };
    if let Some(admin) = &admin {
        tracing::info!(address = %admin.local_addr()?, "the admin listener is there");
    }
    super::say(&format!("osproxy is ready on {scheme}://{address}"));

    let (stop_tasks, abort_tasks) = (CancellationToken::new(), CancellationToken::new());
    let engine = Engine::new(app.clone(), tasks::handlers::all(), task_settings(&config.tasks));
    let running = TaskTracker::new();
    running.spawn(engine.run(stop_tasks.clone(), abort_tasks.clone()));
    running.close();
    let shutdown = CancellationToken::new();
    let router = http::router(app.clone(), &config);
    let drain = config.server.drain_delay.unwrap_or(if config.is_clustered() { DRAIN } else { 0 });
    let drain = Duration::from_secs(drain);
    let last_requests = drain.min(LAST_REQUESTS);
    let server =
        http::server::serve(listener, router, config.server.clone(), tls, shutdown.clone(), last_requests);
    let server = run_on(connections, server);
    let admin = async {
        if let Some(listener) = admin {
            let router = http::admin_router(app.clone(), &config);
            let section = ServerSection { max_connections: ADMIN_CONNECTIONS, ..config.server.clone() };
            http::server::serve(listener, router, section, None, shutdown.clone(), last_requests).await;
        }
    };
    let grace = Duration::from_secs(config.server.shutdown_grace);
    let stop = async {
        signals.first().await;
        app.drain();
        stop_tasks.cancel();
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            () = signals.second() => return,
        }
        shutdown.cancel();
        let out_of_time = async {
            tokio::time::sleep(grace).await;
            abort_tasks.cancel();
            // The server ends by itself then, and so do the tasks.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = out_of_time => {}
            () = signals.second() => {}
        }
    };
    tokio::select! {
        _ = futures_util::future::join3(server, admin, running.wait()) => {}
        () = stop => {}
    }
    abort_tasks.cancel();
    stop_tasks.cancel();
    if tokio::time::timeout(CLEAN_UP, running.wait()).await.is_err() {
        tracing::warn!("tasks did not end in time; they are taken over when their leases end");
    }
    if !app.background.end(CLEAN_UP).await {
        tracing::warn!("cleaning up did not end in time; the next start does it");
    }
    app.coordinator.leave().await;
    tell_of_stores(&app);
    tracing::info!("stopped");
    Ok(())
}

/// Runs a server on another runtime, as long as this is awaited.
async fn run_on(runtime: &Handle, server: impl Future<Output = ()> + Send + 'static) {
    let server = AbortOnDropHandle::new(runtime.spawn(server));
    if let Err(ended) = server.await
        && let Ok(panic) = ended.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Where other nodes reach this one.
fn advertised(config: &Config, listening: SocketAddr) -> anyhow::Result<String> {
    match config.advertised(listening) {
        Ok(advertised) => {
            if config.is_clustered() {
                tracing::info!(address = advertised, "other nodes reach this one here");
                if config.is_out_of_reach(listening) {
                    tracing::warn!(
                        "nodes on other machines cannot reach this one at a loopback address; see `cluster.advertise`"
                    );
                }
            }
            Ok(advertised)
        }
        // There is none.
        Err(_) if !config.is_clustered() => Ok(listening.to_string()),
        Err(problem) => Err(anyhow::Error::msg(problem)),
    }
}

/// Says what was done to stores on other machines: an operator sees there what they cost, and whether they failed.
fn tell_of_stores(app: &App) {
    for (store, counters) in app.stores.counters() {
        let [operations, failures, waited_us, read_bytes, written_bytes] = counters.now();
        if operations > 0 {
            tracing::info!(
                store,
                operations,
                failures,
                waited_ms = waited_us / 1000,
                read_bytes,
                written_bytes,
                "what was done to a store"
            );
        }
    }
}

fn task_settings(section: &TasksSection) -> tasks::Settings {
    tasks::Settings {
        lease: Duration::from_secs(section.lease),
        poll: Duration::from_secs(section.poll_interval),
        first_retry: Duration::from_secs(section.first_retry),
        max_retry: Duration::from_secs(section.max_retry),
    }
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
