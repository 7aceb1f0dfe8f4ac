//! The local disks that a node needs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use osproxy_storage::{DiskSpace, check_writable};

use crate::{Error, cached::Cached, settings::DiskSettings};

/// How long to wait for a measurement of the free space.
const SPACE_TIMEOUT: Duration = Duration::from_secs(5);

/// The folders whose disks a node needs.
pub(crate) struct DiskFolders {
    folders: Arc<[Folder]>,
    /// Every call measures the space again, but concurrent calls share one measurement.
    space: Cached<Vec<(&'static str, DiskSpace)>>,
}

#[derive(Debug)]
struct Folder {
    name: &'static str,
    path: PathBuf,
    /// Space that must stay free on the disk of this folder, in bytes.
    min_free: u64,
}

impl DiskFolders {
    pub(crate) fn new(settings: &DiskSettings) -> Self {
        let data = Folder { name: "data", path: settings.data_dir.clone(), min_free: 0 };
        let objects = settings.object_folder.clone();
        let objects = objects.map(|path| Folder { name: "objects", path, min_free: settings.min_free_space });
        Self {
            folders: [data].into_iter().chain(objects).collect(),
            space: Cached::new(Duration::ZERO).with_timeout(SPACE_TIMEOUT),
        }
    }

    /// Returns the name and problem of each folder that is not writable or whose disk is nearly
    /// full. A disk is nearly full if its free space is below `min_free` bytes or below the minimum
    /// of the folder.
    pub(crate) fn problems(
        &self,
        min_free: u64,
    ) -> impl Future<Output = Vec<(&'static str, String)>> + use<> {
        let folders = self.folders.clone();
        async move {
            let check = tokio::task::spawn_blocking(move || {
                let problem = |folder: &Folder| Some((folder.name, folder.problem(min_free)?));
                folders.iter().filter_map(problem).collect()
            });
            check.await.unwrap_or_else(|error| vec![("data", error.to_string())])
        }
    }

    /// Returns the space on the disk of each folder, with the name of the folder. Omits disks that
    /// cannot be measured. If one disk hangs, returns an empty list.
    pub(crate) async fn space(&self) -> Vec<(&'static str, DiskSpace)> {
        let folders = self.folders.clone();
        let measure = async move {
            let measurement = tokio::task::spawn_blocking(move || {
                let space = |folder: &Folder| Some((folder.name, DiskSpace::of(&folder.path).ok()?));
                folders.iter().filter_map(space).collect()
            });
            measurement.await.map_err(Error::internal)
        };
        self.space.get(measure).await.unwrap_or_default()
    }
}

impl Folder {
    /// Describes the problem of this folder, if there is one. Blocks the thread.
    fn problem(&self, min_free: u64) -> Option<String> {
        match check_writable(&self.path).and_then(|()| DiskSpace::of(&self.path)) {
            Err(error) => Some(format!("is not writable: {error}")),
            Ok(space) if space.free < min_free.max(self.min_free) => Some("is nearly full".to_owned()),
            Ok(_) => None,
        }
    }
}
