//! Exports metrics in the text format of Prometheus.

use std::{sync::Arc, time::Duration};

use osproxy_meta::{DatabaseSnapshot, DatabaseStats};
use osproxy_types::error_chain;

use crate::{App, metrics::MetricsPage};

/// How long to wait for the database statistics. All other metrics are exported in any case.
const TIMEOUT: Duration = Duration::from_secs(5);

impl App {
    /// Returns all metrics as Prometheus text. Database statistics are as old as those of
    /// [`stats`](Self::stats), and are left out while the database does not answer.
    pub async fn export_metrics(self: &Arc<Self>) -> Result<String, std::fmt::Error> {
        let mut page = MetricsPage::default();
        let build =
            vec![("version", self.build.version.to_owned()), ("commit", self.build.commit.to_owned())];
        page.gauge(
            "build_info",
            "Version and commit of osproxy, as labels; the value is always 1",
            [(build, 1)],
        );
        page.timestamp("start_time_seconds", "Unix time at which the process started", self.started_at);
        let draining = u64::from(self.node.is_draining());
        page.gauge("draining", "1 while the node drains before it stops", [(Vec::new(), draining)]);
        let (requests, tasks) = self.node.load();
        page.gauge("requests_in_flight", "Requests in progress", [(Vec::new(), requests)]);
        page.gauge("tasks_running", "Tasks running on this node", [(Vec::new(), tasks)]);
        self.metrics.export(&mut page);
        export_database(&self.meta.metrics(), &mut page);
        self.stores.export(&mut page);
        let (stats, space) = tokio::join!(tokio::time::timeout(TIMEOUT, self.stats()), self.folders.space());
        match stats {
            Ok(Ok(stats)) => export_stats(&stats, &mut page),
            Ok(Err(error)) => {
                tracing::warn!(error = error_chain(&error), "cannot read the database statistics");
            }
            Err(_) => tracing::warn!("the database statistics were not ready in time"),
        }
        let disk = |name: &str| vec![("disk", name.to_owned())];
        let free = space.iter().map(|(name, space)| (disk(name), space.free));
        page.gauge("disk_free_bytes", "Free space on the disk of a folder", free);
        let size = space.iter().map(|(name, space)| (disk(name), space.total));
        page.gauge("disk_size_bytes", "Size of the disk of a folder", size);
        page.text()
    }
}

fn export_database(database: &DatabaseSnapshot, page: &mut MetricsPage) {
    let operations = [("read", &database.reads), ("write", &database.writes)];
    let label = |operation: &str| vec![("operation", operation.to_owned())];
    page.histogram(
        "database_operation_seconds",
        "Duration of database operations: a query, or a transaction until it is durable",
        operations.map(|(operation, counted)| (label(operation), counted.durations.clone())),
    );
    page.counter(
        "database_errors",
        "Failed database operations",
        operations.map(|(operation, counted)| (label(operation), counted.errors)),
    );
    let state = |state: &str| vec![("state", state.to_owned())];
    let used = database.connections.saturating_sub(database.idle_connections);
    page.gauge(
        "database_connections",
        "Open database connections; with SQLite, only those that read",
        [(state("idle"), database.idle_connections.into()), (state("used"), used.into())],
    );
    let plain = |value: u64| [(Vec::new(), value)];
    page.gauge(
        "database_connections_limit",
        "Maximum number of database connections",
        plain(database.max_connections.into()),
    );
    page.gauge(
        "database_waiting_writes",
        "Write transactions waiting in the queue; SQLite only",
        plain(database.queued_writes),
    );
    page.counter("cache_hits", "File lookups answered from the cache", plain(database.cache_hits));
    page.counter("cache_misses", "File lookups that needed a database query", plain(database.cache_misses));
    page.gauge("cache_files", "Files in the cache", plain(database.cached_files));
}

fn export_stats(stats: &DatabaseStats, page: &mut MetricsPage) {
    page.timestamp(
        "counted_time_seconds",
        "Unix time of the last refresh of the database statistics",
        stats.counted_at,
    );
    let tasks = stats
        .tasks_by_kind
        .iter()
        .map(|(kind, state, count)| (vec![("kind", kind.clone()), ("state", state.name())], *count));
    page.gauge("tasks", "Tasks in the database", tasks);
    let files = stats.files.iter().map(|(state, count)| (vec![("state", state.name())], *count));
    page.gauge("files", "Files in the database", files);
    page.gauge("blobs", "Stored blobs", [(Vec::new(), stats.blobs)]);
    page.gauge("stored_bytes", "Total size of stored blobs", [(Vec::new(), stats.bytes_stored)]);
    page.gauge(
        "saved_bytes",
        "Additional bytes that would be stored without deduplication",
        [(Vec::new(), stats.bytes_saved)],
    );
}
