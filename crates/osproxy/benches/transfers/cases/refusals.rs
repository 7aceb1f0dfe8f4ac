//! Durable uploads while other clients send requests that the database rejects.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow};

use super::{
    Scale, alternate_all,
    small::{CONNECTIONS, SMALL},
};
use crate::{
    client::{Connection, put_nothing, run_in_threads},
    content::Content,
    measure::{self, Sample},
    report::{Report, Target},
    server::Server,
};

/// Number of clients that send parts to a complete file.
const REFUSED: usize = 4;

/// Small uploads over 8 connections, alone and while 4 other connections send parts that are
/// rejected. The processor time of a rejection is measured separately and subtracted. The ratio
/// then shows how much the rejections slow down the uploads.
pub(super) fn refusals(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let server = Server::start(folder)?;
    let content = Content::new(SMALL);
    let mut uploading = Connection::open_many(server.address(), CONNECTIONS)?;
    let mut refused = Connection::open_many(server.address(), REFUSED)?;
    let first = uploading.first_mut().context("no connection")?;
    let link = first.upload_link("complete.bin")?;
    let variant = content.variant(usize::MAX);
    first.put(&link.url.single, &variant, false)?;
    // A rejected request with a body would close the connection.
    let part = put_nothing(&format!("{}&chunkNum=1", link.url.multi.upload));
    let each = scale.halved(400);
    let mut counts = Vec::new();
    let names = ["uploads alone", "uploads with refusals", "refusals alone"];
    let [alone, beside, refusing] = alternate_all(scale, names, |which, round| {
        let (stop, refusals) = (AtomicBool::new(false), AtomicU64::new(0));
        let to_refuse = &mut refused;
        let refuse = |_: usize, connection: &mut Connection| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                connection.expect_refusal(&[&part])?;
                let done = refusals.fetch_add(1, Ordering::Relaxed) + 1;
                if which == 2 && done >= 10 * each as u64 {
                    break;
                }
            }
            Ok(())
        };
        let sample = measure::sample(&[server.id()], || {
            thread::scope(|scope| {
                let refusing = if which > 0 {
                    Some(scope.spawn(move || run_in_threads(to_refuse, refuse)))
                } else {
                    None
                };
                let uploaded = if which < 2 {
                    run_in_threads(&mut uploading, |connection_number, connection| {
                        (0..each).try_for_each(|index| {
                            let number =
                                ((round * 2 + which) * CONNECTIONS + connection_number) * each + index;
                            connection.store(&content.variant(number)).map(drop)
                        })
                    })
                } else {
                    Ok(())
                };
                if which < 2 {
                    stop.store(true, Ordering::Relaxed);
                }
                let refused =
                    refusing.map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?);
                uploaded.and(refused.unwrap_or(Ok(())))
            })
        })?;
        counts.push(refusals.into_inner());
        Ok(sample)
    })?;
    let count = (each * CONNECTIONS) as f64;
    // The first round is a warm-up.
    let of = |which: usize| counts.iter().skip(3 + which).step_by(3).map(|count| *count as f64);
    let cost: f64 = refusing.median(|sample| sample.server_cpu) / measure::median(of(2).collect());
    let beside_each = measure::median(of(1).collect());
    let rate = |sample: &Sample| count / sample.wall;
    report.figure("refusals", "uploads per s alone", alone.median(rate), Target::None);
    report.figure("refusals", "uploads per s with refusals", beside.median(rate), Target::None);
    let refused = beside.median(|sample| beside_each / sample.wall);
    report.figure("refusals", "refusals per s with uploads", refused, Target::None);
    report.figure("refusals", "CPU µs per refusal", cost * 1e6, Target::None);
    let own = beside.median(|sample| count / (sample.server_cpu - cost * beside_each));
    let peer = alone.median(|sample| count / sample.server_cpu);
    report.figure("refusals", "uploads per CPU s, ratio to those alone", own / peer, Target::AtLeast(0.8));
    Ok(())
}
