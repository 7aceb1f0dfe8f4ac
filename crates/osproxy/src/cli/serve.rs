//! `osproxy serve`: runs the service.

mod bootstrap_key;
mod listeners;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use listeners::{DrainSignal, Listeners};
use osproxy_core::{
    App,
    tasks::{self, Engine},
};
use osproxy_http::AccessLog;
use tokio::{
    runtime::{Handle, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, LoadedConfig, TasksSection},
    telemetry, version, wiring,
};

/// Maximum number of blocking threads in each runtime. These threads hash, write, sync and read
/// files. Further work is queued, but not for long: no thread ever waits for a client.
const BLOCKING_THREADS: usize = 64;

/// Default of `server.drain_delay` in a cluster, in seconds.
const CLUSTER_DRAIN_SECS: u64 = 5;

/// How long a connected client may take to send its first request while the node stops. Never
/// longer than the drain delay.
const LAST_REQUESTS_TIMEOUT: Duration = Duration::from_secs(1);

/// How long threads may remain in system calls after everything else has ended.
const LAST_THREADS_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the node waits before it exits: once for tasks to stop, then again for detached work to
/// end.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until SIGTERM, SIGINT or SIGHUP, then drains. A second signal aborts the drain and all
/// running requests.
pub fn run(loaded: LoadedConfig) -> anyhow::Result<()> {
    let telemetry =
        telemetry::init(&loaded.config.log, &loaded.config.telemetry).context("cannot initialise logging")?;
    // Writes and tasks have their own runtime, so that many connections cannot delay them.
    let (work, connections) = (runtime()?, runtime()?);
    let served = work.block_on(serve(loaded, telemetry.access_log(), connections.handle()));
    // Dropping the runtimes would wait forever for threads that hang in calls to a disk. Such
    // threads can be abandoned: no file refers yet to what they write.
    work.shutdown_timeout(LAST_THREADS_TIMEOUT);
    connections.shutdown_timeout(LAST_THREADS_TIMEOUT);
    served
}

fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    runtime.context("cannot start the runtime")
}

async fn serve(
    LoadedConfig { config, warnings }: LoadedConfig,
    access_log: Arc<dyn AccessLog>,
    connections: &Handle,
) -> anyhow::Result<()> {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    wiring::check_sandbox(&config)?;
    let signals = Signals::listen().await?;
    let app = wiring::open_node(&config).await?;
    let listeners = Listeners::open(&config).await?;
    let bootstrap_key = bootstrap_key::create(&app, &config).await?;
    let configured = config.webhooks.configured().map_err(anyhow::Error::msg)?;
    let configuring = app.webhooks.configure(configured, config.is_clustered());
    configuring.await.context("cannot set up the webhooks of the configuration")?;
    let address = listeners.address()?;
    // Blocks if it has to resolve a host name.
    let settings = config.clone();
    let advertised = tokio::task::spawn_blocking(move || advertised_address(&settings, address)).await??;
    tracing::info!(%address, node = app.node_id, version = version::FULL, "ready");
    app.node.announce(&*app.coordinator, advertised).await;
    listeners.announce_ready(bootstrap_key.as_ref())?;

    let (stop_tasks, abort_tasks) = (CancellationToken::new(), CancellationToken::new());
    let engine = Engine::new(app.clone(), tasks::handlers::all(), task_settings(&config.tasks));
    let running = TaskTracker::new();
    running.spawn(engine.run(stop_tasks.clone(), abort_tasks.clone()));
    running.close();
    let shutdown = CancellationToken::new();
    let drain_secs =
        config.server.drain_delay.unwrap_or(if config.is_clustered() { CLUSTER_DRAIN_SECS } else { 0 });
    let drain = Duration::from_secs(drain_secs);
    let last_requests = drain.min(LAST_REQUESTS_TIMEOUT);
    let drain_signal = DrainSignal { shutdown: shutdown.clone(), last_requests };
    let served = listeners.serve(&app, &config, access_log, connections, &drain_signal);
    let all = async {
        served.await?;
        running.wait().await;
        anyhow::Ok(())
    };
    let grace = Duration::from_secs(config.server.shutdown_grace);
    let stop = async {
        signals.wait_for_first().await;
        app.node.drain();
        stop_tasks.cancel();
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            () = signals.wait_for_second() => return,
        }
        shutdown.cancel();
        let grace_expired = async {
            tokio::time::sleep(grace).await;
            abort_tasks.cancel();
            // The server and the aborted tasks then end by themselves.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = grace_expired => {}
            () = signals.wait_for_second() => {}
        }
    };
    tokio::select! {
        ended = all => ended?,
        () = stop => {}
    }
    abort_tasks.cancel();
    stop_tasks.cancel();
    if tokio::time::timeout(CLEAN_UP_TIMEOUT, running.wait()).await.is_err() {
        tracing::warn!("tasks did not stop in time; they are taken over when their leases expire");
    }
    if !app.detached_work.wait_idle(CLEAN_UP_TIMEOUT).await {
        tracing::warn!("cleanup did not finish in time; the next start completes it");
    }
    app.coordinator.leave().await;
    log_store_counters(&app);
    tracing::info!("stopped");
    Ok(())
}

/// The address at which other nodes reach this node.
fn advertised_address(config: &Config, listening: SocketAddr) -> anyhow::Result<String> {
    match config.advertised_address(listening) {
        Ok(advertised) => {
            if config.is_clustered() {
                tracing::info!(address = advertised, "advertising this address to other nodes");
                if config.is_advertised_unreachable(listening) {
                    tracing::warn!(
                        "nodes on other machines cannot reach this one at a loopback address; set `cluster.advertise`"
                    );
                }
            }
            Ok(advertised)
        }
        // A single node does not need an address for other nodes.
        Err(_) if !config.is_clustered() => Ok(listening.to_string()),
        Err(problem) => Err(anyhow::Error::msg(problem)),
    }
}

/// Logs the counters of remote stores, so that operators see the traffic and failures of each
/// store.
fn log_store_counters(app: &App) {
    for (store, counters) in app.stores.counters() {
        let totals = counters.totals();
        if totals.operations > 0 {
            tracing::info!(
                store,
                operations = totals.operations,
                failures = totals.failures,
                waited_ms = totals.duration_us / 1000,
                read_bytes = totals.read_bytes,
                written_bytes = totals.written_bytes,
                "store statistics"
            );
        }
    }
}

fn task_settings(section: &TasksSection) -> tasks::EngineSettings {
    tasks::EngineSettings {
        lease: Duration::from_secs(section.lease),
        poll_interval: Duration::from_secs(section.poll_interval),
        initial_backoff: Duration::from_secs(section.min_backoff),
        max_backoff: Duration::from_secs(section.max_backoff),
    }
}

struct Signals {
    received: tokio::sync::watch::Receiver<u32>,
}

impl Signals {
    async fn listen() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Under `nohup` the service must continue after the terminal is closed.
        let mut hangup = if ignores_hangup().await { None } else { Some(signal(SignalKind::hangup())?) };
        let (count, received) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            loop {
                let hung_up = async {
                    match &mut hangup {
                        Some(hangup) => hangup.recv().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hung_up => {}
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { received })
    }

    async fn wait_for_first(&self) {
        let _ = self.received.clone().wait_for(|count| *count >= 1).await;
        tracing::info!("stopping: finishing running requests");
    }

    async fn wait_for_second(&self) {
        let _ = self.received.clone().wait_for(|count| *count >= 2).await;
        tracing::warn!("stopping immediately: received a second signal");
    }
}

/// Whether this process ignores SIGHUP, as it does under `nohup`. `false` if the system does not
/// report it.
async fn ignores_hangup() -> bool {
    const HANGUP: u64 = 1;
    let status = tokio::fs::read_to_string("/proc/self/status").await.unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ignored >> (HANGUP - 1) & 1 == 1
}
