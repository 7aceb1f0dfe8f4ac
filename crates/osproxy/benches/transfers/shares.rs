//! Equal shares of the processor for the processes of a case, as if each had its own machine.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result};

/// Length of the period to which a quota applies, in microseconds.
const PERIOD: usize = 20_000;

/// Control groups that limit one process each. Dropping them moves the processes back to where they
/// were.
pub(crate) struct Shares(Vec<Share>);

struct Share {
    process: u32,
    /// The group with the limit.
    group: PathBuf,
    /// The group in which the process was before.
    before: PathBuf,
}

impl Shares {
    /// Gives each process the same share of all cores. Requires root and control groups, version 1
    /// or 2.
    pub(crate) fn equal(processes: &[u32]) -> Result<Self> {
        let mut shares = Self(Vec::new());
        let quota = thread::available_parallelism()?.get() * PERIOD / processes.len();
        for &process in processes {
            let before = group_of(process)?;
            let group = before.join(format!("osproxy-bench-{process}"));
            fs::create_dir(&group)?;
            shares.0.push(Share { process, group: group.clone(), before });
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
        for Share { process, group, before } in &self.0 {
            let _ = fs::write(before.join("cgroup.procs"), process.to_string());
            let _ = fs::remove_dir(group);
        }
    }
}

/// The group of a process that limits its processor time.
fn group_of(process: u32) -> Result<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let group = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let mounted = match controllers {
            "" => "/sys/fs/cgroup",
            _ if controllers.split(',').any(|controller| controller == "cpu") => "/sys/fs/cgroup/cpu",
            _ => return None,
        };
        let group = Path::new(mounted).join(path.trim_start_matches('/'));
        group.join("cgroup.procs").exists().then_some(group)
    });
    group.context("there are no control groups")
}
