//! Equal shares of the processor for the processes of a case, as if each had its own machine.

use std::{fs, path::PathBuf, thread};

use anyhow::{Context, Result};

/// Length of the period to which a quota applies, in microseconds.
const PERIOD: usize = 20_000;

/// Control groups that limit one process each. Dropping them lifts the limits.
pub(crate) struct Shares {
    parent: PathBuf,
    groups: Vec<PathBuf>,
}

impl Shares {
    /// Gives each process the same share of all cores. Requires root and control groups, version 1
    /// or 2.
    pub(crate) fn equal(processes: &[u32]) -> Result<Self> {
        let versions = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"].map(PathBuf::from);
        let parent = versions.into_iter().find(|folder| folder.join("cgroup.procs").exists());
        let parent = parent.context("there are no control groups")?;
        let mut shares = Self { parent, groups: Vec::new() };
        let cores = thread::available_parallelism()?.get();
        let quota = cores * PERIOD / processes.len();
        for process in processes {
            let group = shares.parent.join(format!("osproxy-bench-{process}"));
            fs::create_dir(&group)?;
            shares.groups.push(group.clone());
            if group.join("cpu.max").exists() {
                fs::write(group.join("cpu.max"), format!("{quota} {PERIOD}"))?;
            } else {
                fs::write(group.join("cpu.cfs_period_us"), PERIOD.to_string())?;
                fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())?;
            }
            fs::write(group.join("cgroup.procs"), process.to_string())?;
        }
        Ok(shares)
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for group in &self.groups {
            for process in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = fs::write(self.parent.join("cgroup.procs"), process);
            }
            let _ = fs::remove_dir(group);
        }
    }
}
