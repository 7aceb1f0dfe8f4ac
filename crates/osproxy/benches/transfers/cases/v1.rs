//! API v1 compared with API v0 and other programs: whole files, files in parts, small downloads,
//! and the creation of links.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use osproxy_api::v1::UploadLinks;

use super::{
    GIB, Scale, alternate_all, blake3_alone,
    parts::{MIB, Upload},
    small::{CONNECTIONS, SMALL, get_in_turn},
};
use crate::{
    client::{
        Connection, download_link_request, get, post_nothing, run_in_threads, upload_link_request,
        v1_link_request, v1_upload_request,
    },
    content::{Content, Variant},
    measure::{self, Sample, median},
    nginx::Nginx,
    report::{Report, Target},
    server::Server,
};

const PART: usize = 8 * MIB;
/// Number of parts of one file that are sent concurrently.
const PARTS_AT_ONCE: usize = 4;
/// Number of small files to download.
const FILES: usize = 200;

/// The receivers of whole files, by index.
const TAKERS: [&str; 6] = ["v1", "v0", "nginx", "blake3 alone", "v1, durable", "dd"];

/// A server, with a connection to it.
struct Receiver {
    server: Server,
    connection: Connection,
}

impl Receiver {
    fn start(folder: &Path, fsync: bool) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let settings = [("LOCAL__FSYNC".to_owned(), fsync.to_string())];
        let server = Server::start_with(folder, &settings)?;
        Ok(Self { connection: Connection::open(server.address())?, server })
    }

    /// Sends content over API v1 without a digest, or over API v0 with its md5. Deletes the file
    /// afterwards.
    fn upload(&mut self, content: &Variant<'_>, over_v1: bool) -> Result<Sample> {
        let (uid, target) = if over_v1 {
            let (uid, links) = self.connection.create_upload(content.len(), PART)?;
            (uid, links.content)
        } else {
            let link = self.connection.upload_link("file.bin")?;
            (link.uid, format!("{}&md5={}", link.url.single, content.md5()))
        };
        let connection = &mut self.connection;
        let sample = measure::sample(&[self.server.id()], || connection.put(&target, content, false))?;
        self.connection.verify_stored(&uid, content)?;
        self.connection.delete(&uid)?;
        self.server.wait_until_gone(&uid)?;
        Ok(sample)
    }
}

/// Uploads of whole files. Without `local.fsync`, the peers are receivers that do not sync either.
/// With it, the peers are uploads without `local.fsync`, and `dd`.
pub(super) fn upload(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let content = Content::new(scale.large);
    let mut plain = Receiver::start(&folder.join("plain"), false)?;
    let mut durable = Receiver::start(&folder.join("durable"), true)?;
    let nginx = if Nginx::accepts_uploads() { Some(Nginx::start(folder)?) } else { None };
    let mut to_nginx = nginx.as_ref().map(|nginx| Connection::open(nginx.address())).transpose()?;
    let source = save(folder, &content.variant(0))?;
    let rounds = alternate_all(scale, TAKERS, |which, round| {
        let variant = content.variant(round);
        // Writes out pending data, so that no receiver waits for the writes of another.
        rustix::fs::sync();
        match (which, &nginx, &mut to_nginx) {
            (0, ..) => plain.upload(&variant, true),
            (1, ..) => plain.upload(&variant, false),
            (2, Some(nginx), Some(connection)) => {
                measure::sample(&nginx.ids()?, || connection.put("/sent.bin", &variant, false))
            }
            (4, ..) => durable.upload(&variant, true),
            (5, ..) => copy_by_dd(&source, &folder.join("dd.bin")),
            // BLAKE3 alone. It also takes the place of an nginx that cannot accept uploads.
            _ => blake3_alone(&variant),
        }
    })?;
    let [v1, v0, by_nginx, hashed, synced, dd] = &rounds;
    let size = scale.large as f64;
    let throughput = |sample: &Sample| size / 1e6 / sample.wall;
    let cpu = |sample: &Sample| sample.server_cpu * GIB / size;
    let case = "v1-upload";
    for (name, peer) in [("v0", v0), ("nginx", by_nginx), ("BLAKE3 alone", hashed)] {
        if name != "nginx" || nginx.is_some() {
            let what = format!("no fsync, MB/s (peer: {name})");
            report.against(case, &what, (v1, peer), throughput, Target::None);
            let what = format!("no fsync, CPU s/GiB (peer: {name})");
            report.against(case, &what, (v1, peer), cpu, Target::None);
        }
    }
    let wall = |sample: &Sample| sample.wall;
    report.against(case, "durable, s (peer: no fsync)", (synced, v1), wall, Target::AtMost(1.2));
    report.against(case, "durable, CPU s/GiB (peer: no fsync)", (synced, v1), cpu, Target::None);
    let what = "durable, MB/s (peer: dd conv=fsync)";
    report.against(case, what, (synced, dd), throughput, Target::AtLeast(0.9));
    let client = v1.median(|sample| sample.client_cpu * GIB / size);
    report.figure(case, "client's CPU s/GiB", client, Target::None);
    report.remark(
        "v1-upload: tusd 1.13 took 1.32 CPU s/GiB and 764 MB/s on 2 cores without hashing or fsync, measured at another \
         time; the aim is no more and no less.",
    );
    Ok(())
}

/// Writes content into a file for other programs to copy.
fn save(folder: &Path, content: &Variant<'_>) -> Result<PathBuf> {
    let path = folder.join("source.bin");
    let mut file = File::create(&path)?;
    file.write_all(content.first())?;
    file.write_all(content.rest())?;
    Ok(path)
}

/// Measures how long `dd` takes to write a file durably.
fn copy_by_dd(from: &Path, to: &Path) -> Result<Sample> {
    let argument = |name: &str, path: &Path| format!("{name}={}", path.display());
    let sample = measure::sample(&[], || {
        let mut dd = Command::new("dd");
        dd.args([argument("if", from), argument("of", to)]).args(["bs=1M", "conv=fsync", "status=none"]);
        ensure!(dd.status()?.success(), "dd failed");
        Ok(())
    })?;
    // Every copy must create a new file.
    std::fs::remove_file(to)?;
    Ok(sample)
}

/// Durable uploads in parts of 8 MiB. Over API v1, without digests, until the file is stored; over
/// API v0, with all md5s, until the parts are merged.
pub(super) fn parts(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let size = if scale.quick { scale.large } else { 4 * scale.large };
    let (server, content) = (Server::start(folder)?, Content::new(size));
    let mut connections = Connection::open_many(server.address(), PARTS_AT_ONCE)?;
    let (mut answers, mut peak) = (Vec::new(), 0.0_f64);
    let [own, peer] = alternate_all(scale, ["v1", "v0"], |which, round| {
        // Each content is different: content that is stored already would not be stored again.
        let variant = content.variant(2 * round + which);
        let first = connections.first_mut().context("no connection")?;
        rustix::fs::sync();
        measure::reset_peak_rss(server.id())?;
        let (uid, sample) = if which == 0 {
            let (uid, links) = first.create_upload(size, PART)?;
            let parts = variant.parts(PART);
            let sample = measure::sample(&[server.id()], || {
                answers.push(send(&mut connections, &links, &parts)?);
                Ok(())
            })?;
            peak = peak.max(measure::peak_rss(server.id())?);
            (uid, sample)
        } else {
            let upload = Upload::new(first, &variant, PART)?;
            let sample = measure::sample(&[server.id()], || {
                upload.send(&mut connections)?;
                server.wait_until_merged(&upload.uid)
            })?;
            (upload.uid, sample)
        };
        let first = connections.first_mut().context("no connection")?;
        first.verify_stored(&uid, &variant)?;
        first.delete(&uid)?;
        server.wait_until_gone(&uid)?;
        Ok(sample)
    })?;
    let size = size as f64;
    let (case, both) = ("v1-parts-8m", (&own, &peer));
    let throughput = |sample: &Sample| size / 1e6 / sample.wall;
    report.against(case, "until stored, MB/s (peer: v0)", both, throughput, Target::None);
    let cpu = |sample: &Sample| sample.server_cpu * GIB / size;
    report.against(case, "until stored, CPU s/GiB (peer: v0)", both, cpu, Target::None);
    // The first round is a warm-up.
    let answer = median(answers.into_iter().skip(1).collect()) * 1e3;
    report.figure(case, "completion response, ms", answer, Target::AtMost(20.0));
    report.figure(
        case,
        "client's CPU s/GiB",
        own.median(|sample| sample.client_cpu * GIB / size),
        Target::None,
    );
    report.figure(case, "peak RSS MiB", peak, Target::None);
    Ok(())
}

/// Sends the parts, each over the next free connection, and completes the upload. Returns the
/// duration of the completion in seconds.
fn send(connections: &mut [Connection], links: &UploadLinks, parts: &[Variant<'_>]) -> Result<f64> {
    let next = AtomicUsize::new(0);
    run_in_threads(connections, |_, connection| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(index) else {
                return Ok(());
            };
            connection.put(&links.part.replace("{number}", &(index + 1).to_string()), part, false)?;
        }
    })?;
    let first = connections.first_mut().context("no connection")?;
    let start = Instant::now();
    first.exchange(&[&post_nothing(&links.complete)], |_| {})?;
    Ok(start.elapsed().as_secs_f64())
}

/// Downloads small files by links of API v1. The peers are links of API v0, and nginx with the same
/// files.
pub(super) fn small_downloads(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let (server, nginx, content) = (Server::start(folder)?, Nginx::start(folder)?, Content::new(SMALL));
    let mut to_server = Connection::open_many(server.address(), CONNECTIONS)?;
    let mut to_nginx = Connection::open_many(nginx.address(), CONNECTIONS)?;
    let first = to_server.first_mut().context("no connection")?;
    let (mut uids, mut of_nginx) = (Vec::new(), Vec::new());
    for number in 0..FILES {
        let variant = content.variant(number);
        uids.push(first.store(&variant)?);
        of_nginx.push(get(&nginx.add(&format!("{number}.bin"), &variant)?));
    }
    let own: Vec<_> = first.v1_links(&uids)?.iter().map(|url| get(url)).collect();
    let of_v0: Vec<_> = first.download_links(&uids)?.iter().map(|link| get(&link.url)).collect();
    for (number, request) in own.iter().enumerate() {
        first.verify(request, &content.variant(number))?;
    }
    let count = scale.halved(40_000);
    let (server_ids, nginx_ids) = ([server.id()], nginx.ids()?);
    let [v1, v0, by_nginx] = alternate_all(scale, ["v1", "v0", "nginx"], |which, _| match which {
        0 => get_in_turn(&server_ids, &mut to_server, &own, count),
        1 => get_in_turn(&server_ids, &mut to_server, &of_v0, count),
        _ => get_in_turn(&nginx_ids, &mut to_nginx, &of_nginx, count),
    })?;
    let each = 1e6 / count as f64;
    let (rate, cpu) =
        (|sample: &Sample| count as f64 / sample.wall, |sample: &Sample| sample.server_cpu * each);
    let case = "v1-small-downloads";
    report.against(case, "per s (peer: v0)", (&v1, &v0), rate, Target::None);
    report.against(case, "CPU µs each (peer: v0)", (&v1, &v0), cpu, Target::None);
    report.against(case, "per s (peer: nginx)", (&v1, &by_nginx), rate, Target::None);
    report.against(case, "CPU µs each (peer: nginx)", (&v1, &by_nginx), cpu, Target::AtMost(1.5));
    Ok(())
}

/// Creates uploads and links over API v1, one per request, compared with API v0.
pub(super) fn links(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let (server, content) = (Server::start(folder)?, Content::new(SMALL));
    let mut connections = Connection::open_many(server.address(), CONNECTIONS)?;
    let first = connections.first_mut().context("no connection")?;
    let uid = first.store(&content.variant(0))?;
    let kinds = [
        ("uploads created", v1_upload_request()?, upload_link_request("file.bin")?, scale.halved(16_000)),
        ("links", v1_link_request(&uid)?, download_link_request(&[uid])?, scale.halved(40_000)),
    ];
    for (what, own, peer, count) in kinds {
        let mut ask = |request: &[u8]| {
            measure::sample(&[server.id()], || {
                run_in_threads(&mut connections, |_, connection| {
                    (0..count / CONNECTIONS)
                        .try_for_each(|_| connection.exchange(&[request], |_| {}).map(drop))
                })
            })
        };
        let [own, peer] =
            alternate_all(scale, ["v1", "v0"], |which, _| ask(if which == 0 { &own } else { &peer }))?;
        let (both, each) = ((&own, &peer), 1e6 / count as f64);
        let rate = |sample: &Sample| count as f64 / sample.wall;
        report.against("v1-links", &format!("{what} per s (peer: v0)"), both, rate, Target::None);
        let cpu = |sample: &Sample| sample.server_cpu * each;
        report.against("v1-links", &format!("{what}, CPU µs each (peer: v0)"), both, cpu, Target::None);
    }
    report.remark(
        "v1-links: the Go program issued 1,061 upload links and 1,200 to 2,400 download links a second with 2 cores, \
         measured at another time; the aim is 4 and 6 times as many.",
    );
    Ok(())
}
