//! Files in parts: sent a few parts at a time, completed, and merged in the background.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use super::{GIB, Scale, alternate, line, md5_alone};
use crate::{
    client::{Connection, put_nothing, run_in_threads},
    content::{Content, Variant},
    measure::{self, Sample, median},
    report::{Report, Target},
    server::Server,
};

pub(super) const MIB: usize = 1 << 20;

/// Number of parts of one file that are sent concurrently.
const CONNECTIONS: usize = 5;
/// Number of concurrent uploads, if the disk has space for them.
const UPLOADS: usize = 16;

/// Target for the merge response, in milliseconds; the same for all file sizes.
const ANSWER: Target = Target::AtMost(20.0);
/// Target for processor seconds per GiB until the file is verified: 0.42 times the Go program's 13.4.
const CPU: Target = Target::AtMost(5.63);

pub(super) fn of_1_mib(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    one_at_a_time(scale, folder, report, "parts-1m", scale.large, MIB)
}

pub(super) fn of_8_mib(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let size = if scale.quick { scale.large } else { 4 * scale.large };
    one_at_a_time(scale, folder, report, "parts-8m", size, 8 * MIB)
}

/// Measures durable uploads of `size` bytes with the md5 of each part and of the file. Each upload
/// ends when its parts are in one object and the md5 of the file is verified.
fn one_at_a_time(
    scale: &Scale,
    folder: &Path,
    report: &mut Report,
    case: &str,
    size: usize,
    part: usize,
) -> Result<()> {
    let server = Server::start(folder)?;
    let content = Content::new(size);
    let mut connections = Connection::open_many(server.address(), CONNECTIONS)?;
    let (mut last, mut all_times) = (None, Vec::new());
    measure::reset_peak_rss(server.id())?;
    let upload = |round| {
        let first = connections.first_mut().context("no connection")?;
        let variant = content.variant(round);
        let (upload, md5) = (Upload::new(first, &variant, part)?, variant.md5());
        let mut times = Times::default();
        let sample = measure::sample(&[server.id()], || {
            times = upload.send(&mut connections)?;
            let start = Instant::now();
            server.wait_until_merged(&upload.uid)?;
            times.whole = times.answer + start.elapsed().as_secs_f64();
            connections.first_mut().context("no connection")?.wait_until_verified(&md5)
        })?;
        all_times.push(times);
        last = Some((upload.uid, round));
        Ok(sample)
    };
    let (own, md5) = alternate(scale, upload, |round| md5_alone(&content.variant(round)))?;
    let peak = measure::peak_rss(server.id())?;
    if let (Some((uid, round)), Some(connection)) = (last, connections.first_mut()) {
        connection.verify_stored(&uid, &content.variant(round))?;
    }
    // The first round is a warm-up.
    let time = |figure: fn(&Times) -> f64| median(all_times.iter().skip(1).map(figure).collect());
    report.figure(case, "merge response, ms", time(|times| times.answer) * 1e3, ANSWER);
    report.figure(case, "time until merged, ms", time(|times| times.whole) * 1e3, Target::None);
    let size = size as f64;
    report.figure(case, "parts, MB/s", size / 1e6 / time(|times| times.parts), Target::None);
    let both = (&own, &md5);
    let throughput = |sample: &Sample| size / 1e6 / sample.wall;
    report.against(case, "until verified, MB/s (peer: md5 alone)", both, throughput, Target::None);
    let cpu = |sample: &Sample| sample.server_cpu * GIB / size;
    report.figure(case, "until verified, CPU s/GiB", own.median(cpu), CPU);
    report.against(case, "until verified, CPU s/GiB (peer: md5 alone)", both, cpu, Target::None);
    let cpu = own.median(|sample| sample.client_cpu * GIB / size);
    report.figure(case, "client's CPU s/GiB", cpu, Target::None);
    report.figure(case, "peak RSS MiB", peak, Target::None);
    Ok(())
}

/// Resident memory during many concurrent uploads, until all files are merged.
pub(super) fn memory(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let size = scale.halved(scale.large);
    let free = rustix::fs::statvfs(folder)?;
    let free = free.f_bavail * free.f_frsize;
    // Each upload needs space for its parts and the merged object. Half of the free space is left
    // to other users of the disk.
    let fit = free / 4 / size as u64;
    let count = UPLOADS.min(usize::try_from(fit)?);
    ensure!(count > 0, "the disk of {} has too little free space", folder.display());
    let server = Server::start(folder)?;
    let content = Content::new(size);
    let mut uploads = Vec::new();
    for number in 0..count {
        let mut connections = Connection::open_many(server.address(), CONNECTIONS)?;
        let first = connections.first_mut().context("no connection")?;
        let upload = Upload::new(first, &content.variant(number), MIB)?;
        uploads.push((upload, connections, Times::default()));
    }
    measure::reset_peak_rss(server.id())?;
    let sample = measure::sample(&[server.id()], || {
        run_in_threads(&mut uploads, |_, (upload, connections, times)| {
            *times = upload.send(connections)?;
            Ok(())
        })?;
        uploads.iter().try_for_each(|(upload, ..)| server.wait_until_merged(&upload.uid))
    })?;
    let peak = measure::peak_rss(server.id())?;
    eprintln!("  {}", line(&sample));
    let answers: Vec<_> = uploads.iter().map(|(.., times)| times.answer * 1e3).collect();
    for (number, (upload, connections, _)) in uploads.iter_mut().enumerate() {
        let first = connections.first_mut().context("no connection")?;
        first.verify_stored(&upload.uid, &content.variant(number))?;
    }
    let (case, what) = ("parts-memory", format!("{count} at once"));
    report.figure(case, &format!("{what}, peak RSS MiB"), peak, Target::AtMost(100.0));
    let slowest = answers.iter().copied().fold(0.0, f64::max);
    report.figure(case, &format!("{what}, merge response, ms"), median(answers), Target::None);
    report.figure(case, &format!("{what}, slowest merge response, ms"), slowest, Target::None);
    let bytes = (count * size) as f64;
    report.figure(case, &format!("{what}, until merged, MB/s"), bytes / 1e6 / sample.wall, Target::None);
    report.figure(case, &format!("{what}, CPU s/GiB"), sample.server_cpu * GIB / bytes, Target::None);
    Ok(())
}

/// Duration of each step of an upload, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// All parts.
    parts: f64,
    /// From the request for the merge to its answer.
    answer: f64,
    /// From the request for the merge until the file is one object.
    whole: f64,
}

/// A file that is ready to be sent.
pub(super) struct Upload<'a> {
    pub(super) uid: String,
    /// The URL and content of each part.
    parts: Vec<(String, Variant<'a>)>,
    merge: Vec<u8>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(connection: &mut Connection, content: &Variant<'a>, part: usize) -> Result<Self> {
        let link = connection.upload_link("file.bin")?;
        let url = &link.url.multi;
        let parts = content.parts(part).into_iter().enumerate();
        let parts: Vec<_> = parts
            .map(|(index, part)| (format!("{}&chunkNum={}&md5={}", url.upload, index + 1, part.md5()), part))
            .collect();
        let (num, size, md5) = (parts.len(), content.len(), content.md5());
        let merge = put_nothing(&format!("{}&num={num}&size={size}&md5={md5}", url.merge));
        Ok(Self { uid: link.uid, parts, merge })
    }

    /// Sends the first part, which decides which node keeps all parts.
    pub(super) fn send_first(&self, connection: &mut Connection) -> Result<()> {
        let (target, part) = self.parts.first().context("no part")?;
        connection.put(target, part, false)
    }

    /// Sends the parts, each over the next free connection, and completes the file.
    pub(super) fn send(&self, connections: &mut [Connection]) -> Result<Times> {
        let start = Instant::now();
        let next = AtomicUsize::new(0);
        run_in_threads(connections, |_, connection| {
            while let Some((target, part)) = self.parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                connection.put(target, part, false)?;
            }
            Ok(())
        })?;
        let parts = start.elapsed().as_secs_f64();
        let connection = connections.first_mut().context("no connection")?;
        let start = Instant::now();
        connection.exchange(&[&self.merge], |_| {})?;
        Ok(Times { parts, answer: start.elapsed().as_secs_f64(), whole: 0.0 })
    }
}
