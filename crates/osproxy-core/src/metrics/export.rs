//! Exports metrics in the text format of Prometheus.

use std::{fmt, sync::Arc, time::Duration};

use osproxy_meta::{DatabaseSnapshot, DatabaseStats, Meta};
use osproxy_storage::DiskSpace;
use osproxy_types::error_chain;
use prometheus_client::{
    encoding::{DescriptorEncoder, prometheus_text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    Metrics,
    encode::{ConstHistogram, EncodeMetrics, FnCollector, gauge},
};
use crate::{
    App, NodeState, Stores, objects::hot_content::HotContent, settings::BuildInfo, webhooks::WebhookMetrics,
};

/// Prefix of all metric names.
const PREFIX: &str = "osproxy";

/// How long to wait for the database statistics. After that, the other metrics are exported without
/// them.
const STATS_TIMEOUT: Duration = Duration::from_secs(5);

/// Sources of all metrics that can be read without waiting.
pub(crate) struct MetricsSources {
    pub(crate) build: BuildInfo,
    /// When the node started, in milliseconds since the Unix epoch.
    pub(crate) started_at: i64,
    pub(crate) node: NodeState,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) meta: Arc<Meta>,
    pub(crate) stores: Arc<Stores>,
}

impl MetricsSources {
    /// Creates a registry that reads the metrics at each scrape.
    pub(crate) fn into_registry(self) -> Registry {
        registry(move |encoder| {
            self.encode_node(encoder)?;
            self.metrics.encode(encoder)?;
            encode_webhooks(encoder, &self.metrics.webhooks, self.meta.now_ms())?;
            encode_database(encoder, self.meta.metrics())?;
            self.stores.encode_metrics(encoder)
        })
    }

    fn encode_node(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = [("version", self.build.version), ("commit", self.build.commit)];
        encoder.encode_samples(
            "build_info",
            "Version and commit of osproxy, as labels; the value is always 1",
            [(labels, gauge(1))],
        )?;
        encoder.encode_metric(
            "start_time_seconds",
            "Unix time at which the process started",
            &timestamp(self.started_at),
        )?;
        let draining = u64::from(self.node.is_draining());
        encoder.encode_metric("draining", "1 while the node drains before it stops", &gauge(draining))?;
        let (requests, tasks) = self.node.load();
        encoder.encode_metric("requests_in_flight", "Requests in progress", &gauge(requests))?;
        encoder.encode_metric("tasks_running", "Tasks running on this node", &gauge(tasks))
    }
}

impl App {
    /// Returns all metrics as Prometheus text. Includes the cached database statistics of
    /// [`stats`](Self::stats), unless the database fails or does not answer in time.
    pub async fn export_metrics(self: &Arc<Self>) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.metrics_registry)?;
        let (stats, disks) =
            tokio::join!(tokio::time::timeout(STATS_TIMEOUT, self.stats()), self.folders.space());
        let stats = match stats {
            Ok(Ok(stats)) => Some(stats),
            Ok(Err(error)) => {
                tracing::warn!(error = error_chain(&error), "cannot read the database statistics");
                None
            }
            Err(_) => {
                tracing::warn!("the database statistics were not ready in time");
                None
            }
        };
        let objects = self.objects.clone();
        let measured = registry(move |encoder| {
            encode_hot_content(encoder, &objects.hot_content)?;
            stats.as_ref().map_or(Ok(()), |stats| encode_stats(encoder, stats))?;
            encode_disks(encoder, &disks)
        });
        prometheus_text::encode(&mut text, &measured)?;
        Ok(text)
    }
}

fn encode_hot_content(encoder: &mut DescriptorEncoder<'_>, content: &HotContent) -> fmt::Result {
    encoder.encode_metric(
        "content_cache_hits",
        "Reads of small content that was in memory",
        &ConstCounter::new(content.hits()),
    )?;
    encoder.encode_metric("content_cache_bytes", "Memory used for small content", &gauge(content.bytes()))
}

fn encode_webhooks(encoder: &mut DescriptorEncoder<'_>, webhooks: &WebhookMetrics, now: i64) -> fmt::Result {
    let (endpoints, backing_off, lag) = webhooks.summary(now);
    encoder.encode_metric("webhooks", "Webhooks that this node delivers to", &gauge(endpoints))?;
    encoder.encode_metric(
        "webhooks_backing_off",
        "Webhooks that this node delivers to and that rest after failures",
        &gauge(backing_off),
    )?;
    encoder.encode_metric(
        "webhook_lag_seconds",
        "Age of the oldest event that has not been sent to one of these webhooks",
        &ConstGauge::new(lag.as_secs_f64()),
    )
}

/// Creates a registry with one collector.
fn registry(encode: impl Fn(&mut DescriptorEncoder<'_>) -> fmt::Result + Send + Sync + 'static) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(FnCollector(encode)));
    registry
}

/// Converts the Unix time `at_ms`, in milliseconds, to a gauge in seconds.
fn timestamp(at_ms: i64) -> ConstGauge<f64> {
    ConstGauge::new(Duration::from_millis(at_ms.unsigned_abs()).as_secs_f64())
}

fn encode_database(encoder: &mut DescriptorEncoder<'_>, database: DatabaseSnapshot) -> fmt::Result {
    let errors = [("read", database.reads.errors), ("write", database.writes.errors)];
    let durations = [("read", database.reads.durations), ("write", database.writes.durations)];
    encoder.encode_samples(
        "database_operation_seconds",
        "Duration of database operations: a query, or a transaction until it is durable",
        durations.map(|(operation, durations)| ([("operation", operation)], ConstHistogram(durations))),
    )?;
    encoder.encode_samples(
        "database_errors",
        "Failed database operations",
        errors.map(|(operation, errors)| ([("operation", operation)], ConstCounter::new(errors))),
    )?;
    let used = database.connections.saturating_sub(database.idle_connections);
    encoder.encode_samples(
        "database_connections",
        "Open database connections; with SQLite, read connections only",
        [("idle", database.idle_connections), ("used", used)]
            .map(|(state, connections)| ([("state", state)], gauge(connections.into()))),
    )?;
    encoder.encode_metric(
        "database_connections_limit",
        "Maximum number of database connections",
        &gauge(database.max_connections.into()),
    )?;
    encoder.encode_metric(
        "database_waiting_writes",
        "Write transactions waiting in the queue; SQLite only",
        &gauge(database.queued_writes),
    )?;
    encoder.encode_metric(
        "cache_hits",
        "File lookups answered from the cache",
        &ConstCounter::new(database.cache_hits),
    )?;
    encoder.encode_metric(
        "cache_misses",
        "File lookups that needed a database query",
        &ConstCounter::new(database.cache_misses),
    )?;
    encoder.encode_metric("cache_files", "Files in the cache", &gauge(database.cached_files))
}

fn encode_stats(encoder: &mut DescriptorEncoder<'_>, stats: &DatabaseStats) -> fmt::Result {
    encoder.encode_metric(
        "counted_time_seconds",
        "Unix time of the last refresh of the database statistics",
        &timestamp(stats.counted_at),
    )?;
    let tasks = stats
        .tasks_by_kind
        .iter()
        .map(|(kind, state, count)| ([("kind", kind.clone()), ("state", state.name())], gauge(*count)));
    encoder.encode_samples("tasks", "Tasks in the database", tasks)?;
    let files = stats.files.iter().map(|(state, count)| ([("state", state.name())], gauge(*count)));
    encoder.encode_samples("files", "Files in the database", files)?;
    encoder.encode_metric(
        "processing_held",
        "Unfinished processing tasks whose latest attempt failed: a step gave no verdict, or is missing",
        &gauge(stats.processing_held),
    )?;
    encoder.encode_metric(
        "processing_oldest_seconds",
        "Age of the oldest unfinished processing task",
        &ConstGauge::new(Duration::from_millis(stats.processing_oldest_ms).as_secs_f64()),
    )?;
    encoder.encode_metric("events", "Events recorded so far", &ConstCounter::new(stats.events))?;
    encoder.encode_metric(
        "event_lag_seconds",
        "Age of the oldest event that readers cannot see yet",
        &ConstGauge::new(Duration::from_millis(stats.event_lag_ms).as_secs_f64()),
    )?;
    encoder.encode_metric("blobs", "Stored blobs", &gauge(stats.blobs))?;
    encoder.encode_metric("stored_bytes", "Total size of stored blobs", &gauge(stats.bytes_stored))?;
    encoder.encode_metric(
        "saved_bytes",
        "Additional bytes that would be stored without deduplication",
        &gauge(stats.bytes_saved),
    )
}

fn encode_disks(encoder: &mut DescriptorEncoder<'_>, disks: &[(&'static str, DiskSpace)]) -> fmt::Result {
    let samples = |bytes: fn(&DiskSpace) -> u64| {
        disks.iter().map(move |(name, space)| ([("disk", *name)], gauge(bytes(space))))
    };
    encoder.encode_samples(
        "disk_free_bytes",
        "Free space on the disk of a folder",
        samples(|space| space.free),
    )?;
    encoder.encode_samples("disk_size_bytes", "Size of the disk of a folder", samples(|space| space.total))
}
