use std::{fs, path::PathBuf};

/// A memory cgroup for one process, which the kernel ends when it needs more.
pub struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// Moves a process into a new group with this limit. `None`: none can be made on this machine.
    pub fn confine(process: u32, bytes: u64) -> Option<Self> {
        let name = format!("osproxy-it-{process}");
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let group = Self(PathBuf::from(root).join(&name));
            let controls = |name: &str| group.0.join(name);
            if PathBuf::from(root).join("cgroup.procs").exists()
                && fs::create_dir(&group.0).is_ok()
                && controls(limit).exists()
                && fs::write(controls(limit), bytes.to_string()).is_ok()
                && fs::write(controls("cgroup.procs"), process.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // One that has a process still is left to whoever cleans the machine.
        let _ = fs::remove_dir(&self.0);
    }
}
