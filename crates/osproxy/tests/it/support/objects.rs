//! Objects on a local disk: in the shard folders of a category or, if an older version of osproxy
//! wrote them, directly in the folder of the category.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use osproxy_storage::Key;

use super::Service;

/// All files in the folder of a local store, as `<category>/<name>` without the shard folder. Omits
/// the store id, the lock file and the packs.
pub fn list_objects(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(root).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        if ["store-id", "packs"].contains(&&*name) {
            continue;
        }
        let category = name.split('-').next().unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            found.push(format!("{category}/{}", file.unwrap().file_name().to_str().unwrap()));
        }
    }
    found.retain(|file| file != ".tmp/lock");
    found.sort();
    found
}

impl Service {
    /// The key that the new object `<category>/<name>` gets on a local disk. It includes the shard
    /// folder.
    pub fn object_key(name: &str) -> String {
        let key = Key::parse(name).unwrap();
        let number = key.name().split(['.', '_']).next().unwrap().parse().unwrap();
        key.in_shard(number).to_string()
    }

    /// The disk space of all objects on a local disk, in bytes. A preallocated file without parts
    /// occupies none.
    pub fn allocated(&self) -> u64 {
        let blocks = |name: String| {
            // An unpublished object may disappear meanwhile.
            std::fs::metadata(self.object_path(name)).map_or(0, |metadata| metadata.blocks() * 512)
        };
        self.objects().into_iter().map(blocks).sum()
    }

    /// The path of the object `<category>/<name>`. If there is no such object, creates the folder
    /// `<category>`, and returns a path in this folder.
    pub fn object_path(&self, name: impl AsRef<str>) -> PathBuf {
        let (category, name) = name.as_ref().split_once('/').unwrap();
        let root = self.objects_folder();
        let folders = std::fs::read_dir(&root).unwrap().map(|folder| folder.unwrap().path());
        let is_of_category = |folder: &PathBuf| {
            folder.file_name().unwrap().to_str().unwrap().split('-').next() == Some(category)
        };
        let there = folders.filter(is_of_category).map(|folder| folder.join(name)).find(|file| file.exists());
        there.unwrap_or_else(|| {
            std::fs::create_dir_all(root.join(category)).unwrap();
            root.join(category).join(name)
        })
    }
}
