use std::{fs, path::PathBuf};

/// A memory cgroup that limits one process. The kernel kills the process if it needs more memory.
/// Drop this after the process has ended.
pub struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// Moves a process into a new cgroup with this limit. Returns `None` if this machine does not
    /// allow that.
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
        // This fails while the cgroup still contains a process.
        let _ = fs::remove_dir(&self.0);
    }
}
