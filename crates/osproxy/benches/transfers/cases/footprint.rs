//! Memory, startup time and binary size.

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use super::Scale;
use crate::{
    client::{Connection, get, ping, run_in_threads},
    content::Content,
    measure::{self, median},
    report::{Report, Target},
    server::{BINARY, Server},
};

const MIB: f64 = (1 << 20) as f64;

/// Concurrent transfers in each direction, if the disk has space for them.
const TRANSFERS: usize = 32;
/// Distinct files to download.
const FILES: usize = 4;
const IDLE_CONNECTIONS: usize = 1000;
const STARTS: usize = 11;

/// Resident memory during many large concurrent transfers, and with many idle connections.
pub(super) fn memory(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    transfers(scale, folder, report)?;
    let server = Server::start(folder)?;
    let mut connection = Connection::open(server.address())?;
    connection.exchange(&[&ping()], |_| {})?;
    let idle = measure::rss(server.id())?;
    let mut connections = Connection::open_many(server.address(), IDLE_CONNECTIONS)?;
    connections.iter_mut().try_for_each(|connection| connection.exchange(&[&ping()], |_| {}).map(drop))?;
    let over = measure::rss(server.id())? - idle;
    let what = format!("{IDLE_CONNECTIONS} idle connections, RSS increase, MiB");
    report.figure("memory", &what, over, Target::AtMost(30.0));
    Ok(())
}

fn transfers(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let free = rustix::fs::statvfs(folder)?;
    let free = free.f_bavail * free.f_frsize;
    // Half of the free space is left to other users of the disk.
    let fit = free / 2 / scale.large as u64;
    let transfers = TRANSFERS.min(usize::try_from(fit)?.saturating_sub(FILES));
    ensure!(transfers > 0, "the disk of {} has too little free space", folder.display());
    let server = Server::start(folder)?;
    let mut connection = Connection::open(server.address())?;
    connection.exchange(&[&ping()], |_| {})?;
    let idle = measure::rss(server.id())?;
    let content = Content::new(scale.large);
    let uids: Vec<_> =
        (0..FILES).map(|number| connection.store(&content.variant(number))).collect::<Result<_>>()?;
    let downloads: Vec<_> = connection.download_links(&uids)?.iter().map(|link| get(&link.url)).collect();
    let mut connections = Connection::open_many(server.address(), 2 * transfers)?;
    measure::reset_peak_rss(server.id())?;
    let sample = measure::sample(&[server.id()], || {
        run_in_threads(&mut connections, |number, connection| {
            if number < transfers {
                let variant = content.variant(FILES + number);
                let uid = connection.store(&variant)?;
                let links = connection.download_links(&[uid])?;
                let size = scale.large.to_string();
                ensure!(links.iter().all(|link| link.meta.size == size), "an upload was cut short");
                return Ok(());
            }
            let mut requests = downloads.iter().cycle().skip(number % FILES).take(1);
            requests.try_for_each(|request| connection.get(request, scale.large as u64))
        })
    })?;
    let peak = measure::peak_rss(server.id())?;
    eprintln!("  {}", super::line(&sample));
    let what = format!("{transfers} up and {transfers} down at once");
    report.figure("memory", "idle, RSS MiB", idle, Target::None);
    report.figure("memory", &format!("{what}, peak RSS MiB"), peak, Target::AtMost(100.0));
    report.figure("memory", &format!("{what}, RSS increase, MiB"), peak - idle, Target::AtMost(64.0));
    let moved = (2 * transfers * scale.large) as f64;
    report.figure("memory", &format!("{what}, MB/s"), moved / 1e6 / sample.wall, Target::None);
    Ok(())
}

/// Time from spawning until the service prints that it is ready, and size of the binary.
pub(super) fn start(_: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let time = || Ok(Server::start(folder)?.startup_time.as_secs_f64() * 1e3);
    report.figure("start", "on a fresh folder, ms", time()?, Target::AtMost(100.0));
    let times = (0..STARTS).map(|_| time()).collect::<Result<_>>()?;
    report.figure("start", "on a folder with data, ms", median(times), Target::AtMost(100.0));
    let size = fs::metadata(BINARY)?.len() as f64 / MIB;
    report.figure("start", "binary, MiB", size, Target::AtMost(30.0));
    Ok(())
}
