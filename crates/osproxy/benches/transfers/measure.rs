//! Samples of the kernel's process statistics.

use std::{fs, time::Instant};

use anyhow::{Context, Result};

/// Unit of CPU times in `/proc`, in seconds: `USER_HZ`, the same on every architecture.
const TICK: f64 = 0.01;

/// One round of a case, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) wall: f64,
    /// User and system time of the server's processes.
    pub(crate) server_cpu: f64,
    /// User and system time of the benchmark itself, which the server does not get.
    pub(crate) client_cpu: f64,
}

/// The rounds of a case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds(Vec<Sample>);

impl Rounds {
    pub(crate) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    pub(crate) fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.0.iter().map(figure).collect())
    }

    /// Median of the ratios between a round and the peer's round. Only rounds with the same number
    /// are compared, because they ran under the same conditions.
    pub(crate) fn ratio(&self, peer: &Self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.0.iter().zip(&peer.0).map(|(own, peer)| figure(own) / figure(peer)).collect())
    }
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures the duration of `work`, and the processor time of the server's processes and of the
/// benchmark.
pub(crate) fn sample(server: &[u32], work: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let cpu_of_server = || server.iter().try_fold(0.0, |sum, id| anyhow::Ok(sum + cpu(&id.to_string())?));
    let (server_before, client_before) = (cpu_of_server()?, cpu("self")?);
    let start = Instant::now();
    work()?;
    let wall = start.elapsed().as_secs_f64();
    Ok(Sample {
        wall,
        server_cpu: cpu_of_server()? - server_before,
        client_cpu: cpu("self")? - client_before,
    })
}

/// User and system time that a process has used so far, in seconds.
fn cpu(process: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The process name, in brackets, may contain spaces and brackets itself.
    let (_, fields) = stat.rsplit_once(')').context("/proc/.../stat is not as expected")?;
    let times = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks = times.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(f64::from(ticks) * TICK)
}

/// The child processes of a process.
pub(crate) fn children(id: u32) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    Ok(children.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// Resident memory in MiB.
pub(crate) fn rss(id: u32) -> Result<f64> {
    status(id, "VmRSS:")
}

/// Peak of the resident memory since [`reset_peak_rss`], in MiB.
pub(crate) fn peak_rss(id: u32) -> Result<f64> {
    status(id, "VmHWM:")
}

pub(crate) fn reset_peak_rss(id: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{id}/clear_refs"), "5")?)
}

fn status(id: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
