//! The S3 API of osproxy and other S3 servers, in turn.

use std::path::Path;

use anyhow::{Context, Result};

use super::{
    GIB, Scale,
    peers::{Column, Results, large_files, markdown, measure_all, small_downloads, small_uploads},
    small::SMALL,
};
use crate::{
    client::{Connection, run_in_threads},
    content::{Content, Variant},
    measure::{self, Sample, median},
    peers::{self, Peer},
    report::{Report, Target, number},
};

/// Concurrent connections that send small objects, and parts.
const MANY: usize = 64;
const FEW: usize = 8;
const SENDERS: usize = 4;
/// Size of an object of medium size, in bytes.
const MEDIUM: usize = 8 << 20;
/// Size of a part, and number of parts.
const PART: usize = 16 << 20;
const PARTS: usize = 64;

pub(super) fn peers(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let peers = peers::start_s3(folder)?;
    let (small, medium) = (Content::new(SMALL), Content::new(MEDIUM));
    let medium_scale = Scale { large: MEDIUM, ..*scale };
    let (up, down) = large_files(&medium_scale, &peers, &medium)?;
    let columns = [
        ("16 KiB PUT, 8 at once", SMALL, small_uploads(scale, &peers, &small, FEW)?),
        ("16 KiB PUT, 64 at once", SMALL, small_uploads(scale, &peers, &small, MANY)?),
        ("16 KiB GET, 8 at once", SMALL, small_downloads(scale, &peers, &small)?),
        ("8 MiB PUT", MEDIUM, up),
        ("8 MiB GET", MEDIUM, down),
        ("8 MiB PUT, 4 at once", MEDIUM, medium_uploads(scale, &peers, &medium)?),
        ("1 GiB in parts of 16 MiB, 4 at once", PART * PARTS, multipart(scale, &peers)?),
    ];
    let titles = ["program", "work", "per s", "MB/s", "CPU ms", "CPU s/GiB", "p99 ms"].map(str::to_owned);
    let mut table = vec![titles.to_vec()];
    for (what, size, column) in &columns {
        for (peer, results) in peers.iter().zip(column) {
            let per_second = results.rounds.median(|sample| 1.0 / sample.wall);
            let cpu = results.rounds.median(|sample| sample.server_cpu);
            let figures = [
                per_second,
                per_second * *size as f64 / 1e6,
                cpu * 1e3,
                cpu * GIB / *size as f64,
                median(results.p99.clone()) * 1e3,
            ];
            let mut row = vec![peer.name.to_owned(), (*what).to_owned()];
            row.extend(figures.map(|value| if value.is_nan() { "-".to_owned() } else { number(value) }));
            table.push(row);
        }
        compare(report, what, &peers, column)?;
    }
    println!("{}", markdown(&table)?);
    Ok(())
}

/// Compares osproxy with the fastest of the others.
fn compare(report: &mut Report, what: &str, peers: &[Peer], column: &Column) -> Result<()> {
    let rate = |sample: &Sample| 1.0 / sample.wall;
    let (own, others) = column.split_first().context("osproxy has no results")?;
    let others =
        peers.iter().skip(1).zip(others).filter(|(_, results)| !results.rounds.median(rate).is_nan());
    let fastest = |one: &(&Peer, &Results), two: &(&Peer, &Results)| {
        one.1.rounds.median(rate).total_cmp(&two.1.rounds.median(rate))
    };
    let Some((peer, best)) = others.max_by(fastest) else { return Ok(()) };
    let both = (&own.rounds, &best.rounds);
    let title = format!("{what}: rate (peer: {})", peer.name);
    report.against("s3-peers", &title, both, rate, Target::AtLeast(3.0));
    let title = format!("{what}: CPU (peer: {})", peer.name);
    report.against("s3-peers", &title, both, |sample| sample.server_cpu, Target::AtMost(1.0));
    Ok(())
}

fn medium_uploads(scale: &Scale, peers: &[Peer], content: &Content) -> Result<Column> {
    measure_all(scale, peers, SENDERS, |peer, connection, [round, thread, index]| {
        let variant = content.variant((round * 1000 + thread) * 1_000_000 + index);
        // Few names, so that the disk does not fill up.
        peer.store(connection, &format!("{MEDIUM}.{thread}.bin"), &variant).map(drop)
    })
}

/// Sends objects in parts.
fn multipart(scale: &Scale, peers: &[Peer]) -> Result<Column> {
    let content = Content::new(PART);
    let parts = if scale.quick { PARTS / 4 } else { PARTS };
    let mut column: Column = peers.iter().map(|_| Results::default()).collect();
    for round in 0..=scale.rounds {
        for (number, (peer, results)) in peers.iter().zip(&mut column).enumerate() {
            rustix::fs::sync();
            let sample = peer.attempt(|| send_parts(peer, &content, parts, round * peers.len() + number))?;
            let Some(Sample { wall, server_cpu, client_cpu }) = sample else { continue };
            // As if all parts had been sent.
            let scale_to_all = PARTS as f64 / parts as f64;
            let sample = Sample {
                wall: wall * scale_to_all,
                server_cpu: server_cpu * scale_to_all,
                client_cpu: client_cpu * scale_to_all,
            };
            eprintln!("  round {round}: {} {}", peer.name, super::line(&sample));
            if round > 0 {
                results.rounds.push(sample);
            }
        }
    }
    Ok(column)
}

/// Sends one object in parts that all differ, and removes it.
fn send_parts(peer: &Peer, content: &Content, parts: usize, salt: usize) -> Result<Sample> {
    let (store, name) = (peer.s3()?, "parts.bin");
    let mut connections = Connection::open_many(peer.address, SENDERS)?;
    let upload = store.begin(connections.first_mut().context("no connection")?, name)?;
    let variants: Vec<_> = (0..parts).map(|number| content.variant(salt * PARTS + number)).collect();
    let md5s: Vec<_> = variants.iter().map(Variant::md5).collect();
    let completion = store.completion(name, &upload, &md5s)?;
    let sample = measure::sample(&peer.ids()?, || {
        run_in_threads(&mut connections, |thread, connection| {
            for (number, variant) in variants.iter().enumerate().skip(thread).step_by(SENDERS) {
                let mut head = store.part(name, &upload, number + 1, variant.len())?;
                head.extend_from_slice(variant.first());
                connection.exchange(&[&head, variant.rest()], |_| {})?;
            }
            Ok(())
        })?;
        connections.first_mut().context("no connection")?.exchange(&[&completion], |_| {}).map(drop)
    })?;
    peer.remove(connections.first_mut().context("no connection")?, name)?;
    Ok(sample)
}
