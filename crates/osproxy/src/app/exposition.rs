//! What is counted, for who collects it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use osproxy_storage::{DiskSpace, check_writable};

use super::{App, condition::Check};
use crate::{
    config::{Config, StoreKind},
    error,
    meta::Stats,
    metrics::Page,
    version,
};

/// How long what stands in the database is waited for. The rest is told in any case.
const PATIENCE: Duration = Duration::from_secs(5);

/// The folders of a node whose disks it needs.
#[derive(Debug)]
pub(super) struct Folders {
    folders: Arc<[Folder]>,
    space: Check,
}

/// A folder, and what it is called.
#[derive(Debug)]
struct Folder {
    name: &'static str,
    path: PathBuf,
    /// How much of its disk must stay free, in bytes.
    keep_free: u64,
}

impl Folders {
    pub(super) fn of(config: &Config) -> Self {
        let data = Folder { name: "data", path: config.data_dir.clone(), keep_free: 0 };
        let has_objects = config.stores().contains(&StoreKind::Local);
        let objects = has_objects.then(|| Folder {
            name: "objects",
            path: config.objects_root(),
            keep_free: config.local.keep_free,
        });
        Self { folders: [data].into_iter().chain(objects).collect(), space: Check::default() }
    }

    /// Finds out which of them cannot be written to, or have less than `least` bytes of room, or less than must stay free: their
    /// names, and what is wrong.
    pub(super) fn problems(&self, least: u64) -> impl Future<Output = Vec<(&'static str, String)>> + use<> {
        let folders = self.folders.clone();
        async move {
            let asking = tokio::task::spawn_blocking(move || {
                let problem = |folder: &Folder| Some((folder.name, folder.problem(least)?));
                folders.iter().filter_map(problem).collect()
            });
            asking.await.unwrap_or_else(|error| vec![("data", error.to_string())])
        }
    }

    /// How much room their disks have. A disk that cannot be asked is left out.
    async fn space(&self) -> Vec<(&'static str, DiskSpace)> {
        let folders = self.folders.clone();
        let asking = self.space.run(PATIENCE, async move {
            let asking = tokio::task::spawn_blocking(move || {
                let space = |folder: &Folder| Some((folder.name, DiskSpace::of(&folder.path).ok()?));
                folders.iter().filter_map(space).collect()
            });
            asking.await.unwrap_or_default()
        });
        asking.await.unwrap_or_default()
    }
}

impl Folder {
    /// Blocks.
    fn problem(&self, least: u64) -> Option<String> {
        let free = check_writable(&self.path).and_then(|()| DiskSpace::of(&self.path));
        match free {
            Err(error) => Some(format!("cannot be written to: {error}")),
            Ok(space) if space.free < least.max(self.keep_free) => Some("has no room left".to_owned()),
            Ok(_) => None,
        }
    }
}

impl App {
    /// Everything that is counted, as text for Prometheus. What has to be counted in the database is as old as
    /// [`stats`](Self::stats) has it, and is left out while the database does not answer.
    pub async fn metrics_page(self: &Arc<Self>) -> Result<String, std::fmt::Error> {
        let mut page = Page::default();
        let build = vec![("version", version::NUMBER.to_owned()), ("commit", version::COMMIT.to_owned())];
        page.gauge("build_info", "Always 1; the labels say which version this is", [(build, 1)]);
        page.moment("start_time_seconds", "When the process started, since the Unix epoch", self.started_at);
        let draining = u64::from(self.is_draining());
        page.gauge("draining", "1 while the node says that it is about to stop", [(Vec::new(), draining)]);
        let (requests, tasks) = self.running();
        page.gauge("requests_in_flight", "Requests that have not ended", [(Vec::new(), requests)]);
        page.gauge("tasks_running", "Tasks that this node works on", [(Vec::new(), tasks)]);
        self.metrics.tell(&mut page);
        self.meta.tell(&mut page);
        self.stores.tell(&mut page);
        let (stats, space) = tokio::join!(tokio::time::timeout(PATIENCE, self.stats()), self.folders.space());
        match stats {
            Ok(Ok(stats)) => tell_stats(&stats, &mut page),
            Ok(Err(error)) => {
                tracing::warn!(error = error::chain(&error), "cannot count what stands in the database");
            }
            Err(_) => tracing::warn!("the database takes too long to count what stands in it"),
        }
        let disk = |name: &str| vec![("disk", name.to_owned())];
        let free = space.iter().map(|(name, space)| (disk(name), space.free));
        page.gauge("disk_free_bytes", "Room that is left on a disk for this process", free);
        let size = space.iter().map(|(name, space)| (disk(name), space.total));
        page.gauge("disk_size_bytes", "Room that a disk has", size);
        page.text()
    }
}

fn tell_stats(stats: &Stats, page: &mut Page) {
    page.moment(
        "counted_time_seconds",
        "When the next five were counted, since the Unix epoch",
        stats.counted_at,
    );
    let tasks = stats
        .tasks_of_kinds
        .iter()
        .map(|(kind, state, count)| (vec![("kind", kind.clone()), ("state", state.name())], *count));
    page.gauge("tasks", "Tasks in the database", tasks);
    let files = stats.files.iter().map(|(state, count)| (vec![("state", state.name())], *count));
    page.gauge("files", "Files in the database", files);
    page.gauge("blobs", "Contents that are stored", [(Vec::new(), stats.blobs)]);
    page.gauge("stored_bytes", "Bytes that they have together", [(Vec::new(), stats.bytes_stored)]);
    page.gauge(
        "saved_bytes",
        "Bytes that they would have besides if every file had a content of its own",
        [(Vec::new(), stats.bytes_saved)],
    );
}
