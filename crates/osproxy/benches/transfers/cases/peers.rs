//! osproxy and other programs, in turn.

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{GIB, Scale, small::SMALL};
use crate::{
    client::{Connection, run_in_threads},
    content::Content,
    measure::{self, Rounds, Sample, median},
    peers::{self, Peer},
    report::{Report, Target, number},
};

/// Numbers of concurrent connections that upload small files.
const UPLOADERS: [usize; 2] = [8, 64];
const DOWNLOADERS: usize = 8;
/// Number of small files to download from each program.
const FILES: usize = 200;

/// What one program did in all rounds of one kind of work. The samples are those of one request.
#[derive(Default)]
pub(super) struct Results {
    pub(super) rounds: Rounds,
    /// 99th percentiles, in seconds.
    pub(super) p99: Vec<f64>,
}

/// The results of all programs, in their order.
pub(super) type Column = Vec<Results>;

pub(super) fn peers(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let peers = peers::start_all(folder)?;
    let large = Content::new(scale.large);
    let small = Content::new(SMALL);
    let (up, down) = large_files(scale, &peers, &large)?;
    let uploads = UPLOADERS
        .iter()
        .map(|connections| small_uploads(scale, &peers, &small, *connections))
        .collect::<Result<Vec<_>>>()?;
    let downloads = small_downloads(scale, &peers, &small)?;
    let mut table = vec![
        ["program", "syncs", "256 MiB up: MB/s", "CPU s/GiB", "down: MB/s", "CPU s/GiB"]
            .map(str::to_owned)
            .to_vec(),
    ];
    if let Some(titles) = table.first_mut() {
        for connections in UPLOADERS {
            titles.push(format!("16 KiB up, {connections} at once: per s"));
            titles.extend(["CPU µs", "p99 ms", "client's CPU µs"].map(str::to_owned));
        }
        titles.push(format!("16 KiB down, {DOWNLOADERS} at once: per s"));
        titles.extend(["CPU µs", "p99 ms", "client's CPU µs", "peak RSS MiB"].map(str::to_owned));
    }
    let size = scale.large as f64;
    let cell = |value: f64| if value.is_nan() { "-".to_owned() } else { number(value) };
    for (number_of, peer) in peers.iter().enumerate() {
        let mut row = vec![peer.name.to_owned(), if peer.syncs { "yes" } else { "no" }.to_owned()];
        for column in [&up, &down] {
            let results = column.get(number_of).context("no result")?;
            row.push(cell(results.rounds.median(|sample| size / 1e6 / sample.wall)));
            row.push(cell(results.rounds.median(|sample| sample.server_cpu * GIB / size)));
        }
        for column in uploads.iter().chain([&downloads]) {
            let results = column.get(number_of).context("no result")?;
            row.push(cell(results.rounds.median(|sample| 1.0 / sample.wall)));
            row.push(cell(results.rounds.median(|sample| sample.server_cpu * 1e6)));
            row.push(cell(median(results.p99.clone()) * 1e3));
            row.push(cell(results.rounds.median(|sample| sample.client_cpu * 1e6)));
        }
        row.push(cell(peer.peak_rss().unwrap_or(f64::NAN)));
        table.push(row);
    }
    println!("{}", markdown(&table)?);
    targets(report, &peers, &up, &uploads, &downloads)
}

/// Compares the results with the targets that name a peer.
fn targets(
    report: &mut Report,
    peers: &[Peer],
    up: &Column,
    uploads: &[Column],
    downloads: &Column,
) -> Result<()> {
    let of = |column: &'_ Column, name: &str| {
        let number = peers.iter().position(|peer| peer.name == name)?;
        column.get(number).map(|results| (results.rounds.clone(), median(results.p99.clone())))
    };
    let own = of(downloads, "osproxy").context("osproxy has no results")?;
    let rate = |sample: &Sample| 1.0 / sample.wall;
    let cpu = |sample: &Sample| sample.server_cpu * 1e6;
    if let Some(nginx) = of(downloads, "nginx") {
        let both = (&own.0, &nginx.0);
        report.against("peers", "16 KiB down, per s (peer: nginx)", both, rate, Target::AtLeast(0.85));
        report.against("peers", "16 KiB down, CPU µs (peer: nginx)", both, cpu, Target::AtMost(1.2));
    }
    let own = of(up, "osproxy: tus").context("osproxy has no results")?;
    if let Some(tus) = of(up, "@tus/server") {
        let both = (&own.0, &tus.0);
        report.against("peers", "large upload, per s (peer: @tus/server)", both, rate, Target::AtLeast(1.0));
        report.against("peers", "large upload, CPU (peer: @tus/server)", both, cpu, Target::AtMost(1.0));
    }
    for (column, connections) in uploads.iter().zip(UPLOADERS) {
        for (own, peer) in [("osproxy", "tusd"), ("osproxy: link, PUT", "tusd: POST, PATCH")] {
            let (Some(own), Some(tusd)) = (of(column, own), of(column, peer)) else { continue };
            let both = (&own.0, &tusd.0);
            let what = format!("16 KiB up, {connections} at once, per s (peer: {peer})");
            let least = if connections == 64 { Target::AtLeast(1.1) } else { Target::None };
            report.against("peers", &what, both, rate, least);
            let what = format!("16 KiB up, {connections} at once, CPU µs (peer: {peer})");
            report.against("peers", &what, both, cpu, Target::AtMost(1.0));
            let what = format!("16 KiB up, {connections} at once, p99 / p99 of {peer}");
            report.figure("peers", &what, own.1 / tusd.1, Target::AtMost(1.0));
        }
    }
    Ok(())
}

/// Uploads and downloads a large file over one connection.
pub(super) fn large_files(scale: &Scale, peers: &[Peer], content: &Content) -> Result<(Column, Column)> {
    let mut up: Column = peers.iter().map(|_| Results::default()).collect();
    let mut down: Column = peers.iter().map(|_| Results::default()).collect();
    for round in 0..=scale.rounds {
        for (number, peer) in peers.iter().enumerate() {
            let variant = content.variant(round * peers.len() + number);
            let name = format!("{}.{number}-{round}.bin", scale.large);
            // Writes out pending data, so that no program waits for the writes of another.
            rustix::fs::sync();
            let samples = peer.attempt(|| {
                let ids = peer.ids()?;
                let mut connection = Connection::open(peer.address)?;
                let mut stored = String::new();
                let sent = measure::sample(&ids, || {
                    stored = peer.store(&mut connection, &name, &variant)?;
                    Ok(())
                })?;
                let request = peer.download(&mut connection, &stored)?;
                if peer.stores() {
                    connection.verify(&request, &variant)?;
                }
                let received = measure::sample(&ids, || connection.get(&request, scale.large as u64))?;
                peer.remove(&mut connection, &stored)?;
                Ok((sent, received))
            })?;
            let Some((sent, received)) = samples else { continue };
            eprintln!(
                "  round {round}: {} up {}, down {}",
                peer.name,
                super::line(&sent),
                super::line(&received)
            );
            if round > 0 {
                for (column, sample) in [(&mut up, sent), (&mut down, received)] {
                    column.get_mut(number).context("no result")?.rounds.push(sample);
                }
            }
        }
    }
    Ok((up, down))
}

pub(super) fn small_uploads(
    scale: &Scale,
    peers: &[Peer],
    content: &Content,
    connections: usize,
) -> Result<Column> {
    measure_all(scale, peers, connections, |peer, connection, [round, thread, index]| {
        let number = (round * 1000 + thread) * 1_000_000 + index;
        let name = format!("{SMALL}.{round}-{thread}-{index}.bin");
        peer.store(connection, &name, &content.variant(number)).map(drop)
    })
}

pub(super) fn small_downloads(scale: &Scale, peers: &[Peer], content: &Content) -> Result<Column> {
    let mut requests = Vec::new();
    for peer in peers {
        let own = peer.attempt(|| {
            let mut connection = Connection::open(peer.address)?;
            let mut own = Vec::new();
            for number in 0..FILES {
                let variant = content.variant(usize::MAX - number);
                let name = format!("{SMALL}.down-{number}.bin");
                let stored = peer.store(&mut connection, &name, &variant)?;
                let request = peer.download(&mut connection, &stored)?;
                if peer.stores() {
                    connection.verify(&request, &variant)?;
                }
                own.push(request);
            }
            Ok(own)
        })?;
        requests.push(own.unwrap_or_default());
    }
    measure_all(scale, peers, DOWNLOADERS, |peer, connection, [_, thread, index]| {
        let number = peers.iter().position(|other| std::ptr::eq(other, peer)).context("no such peer")?;
        let own = requests.get(number).context("no requests")?;
        // No two connections read the same file: tusd refuses that.
        let each = FILES / DOWNLOADERS;
        let request = own.get(thread * each + index % each).context("no request")?;
        connection.get(request, SMALL as u64)
    })
}

/// In each round, all programs in turn do as much work as they can in a fixed time. `work` gets the
/// round, the number of the connection, and the number of the request.
pub(super) fn measure_all(
    scale: &Scale,
    peers: &[Peer],
    connections: usize,
    work: impl Fn(&Peer, &mut Connection, [usize; 3]) -> Result<()> + Sync,
) -> Result<Column> {
    let time = Duration::from_secs(if scale.quick { 1 } else { 2 });
    let mut column: Column = peers.iter().map(|_| Results::default()).collect();
    for round in 0..=scale.rounds {
        for (peer, results) in peers.iter().zip(&mut column) {
            rustix::fs::sync();
            let done = peer.attempt(|| {
                let ids = peer.ids()?;
                let opened = Connection::open_many(peer.address, connections)?;
                // Latencies, in seconds.
                let mut each: Vec<_> =
                    opened.into_iter().map(|connection| (connection, Vec::new())).collect();
                let end = Instant::now() + time;
                let sample = measure::sample(&ids, || {
                    run_in_threads(&mut each, |thread, (connection, latencies)| {
                        let mut start = Instant::now();
                        for index in 0.. {
                            work(peer, connection, [round, thread, index])?;
                            let now = Instant::now();
                            latencies.push((now - start).as_secs_f64());
                            if now >= end {
                                break;
                            }
                            start = now;
                        }
                        Ok(())
                    })
                })?;
                Ok((sample, each))
            })?;
            let Some((sample, each)) = done else { continue };
            let mut latencies: Vec<_> = each.into_iter().flat_map(|(_, latencies)| latencies).collect();
            latencies.sort_by(f64::total_cmp);
            let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(f64::NAN);
            let count = latencies.len() as f64;
            eprintln!(
                "  round {round}: {} {count} with {connections} connections, p99 {:.2} ms, {}",
                peer.name,
                p99 * 1e3,
                super::line(&sample)
            );
            if round > 0 {
                results.p99.push(p99);
                let Sample { wall, server_cpu, client_cpu } = sample;
                results.rounds.push(Sample {
                    wall: wall / count,
                    server_cpu: server_cpu / count,
                    client_cpu: client_cpu / count,
                });
            }
        }
    }
    Ok(column)
}

/// Formats a table whose first row has the titles.
pub(super) fn markdown(table: &[Vec<String>]) -> Result<String> {
    let mut text = String::new();
    for (number, row) in table.iter().enumerate() {
        writeln!(text, "| {} |", row.join(" | "))?;
        if number == 0 {
            writeln!(text, "|{}", "---|".repeat(row.len()))?;
        }
    }
    Ok(text)
}
