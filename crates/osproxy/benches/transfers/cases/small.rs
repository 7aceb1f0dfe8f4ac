//! Many small requests over 8 concurrent connections.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Scale, alternate, without_peer};
use crate::{
    client::{Connection, download_link_request, get, run_in_threads, upload_link_request},
    content::Content,
    measure::{self, Rounds, Sample},
    nginx::Nginx,
    report::{Report, Target},
    server::Server,
};

pub(super) const CONNECTIONS: usize = 8;
/// Size of a small file, in bytes.
pub(super) const SMALL: usize = 16 * 1024;
/// Number of small files to download.
const FILES: usize = 200;

/// Downloads small files by signed links. The peer is nginx with the same files.
pub(super) fn downloads(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let server = Server::start(folder)?;
    let nginx = Nginx::start(folder)?;
    let content = Content::new(SMALL);
    let mut to_server = Connection::open_many(server.address(), CONNECTIONS)?;
    let mut to_nginx = Connection::open_many(nginx.address(), CONNECTIONS)?;
    let (Some(first), Some(first_to_nginx)) = (to_server.first_mut(), to_nginx.first_mut()) else {
        return Ok(());
    };
    let (mut uids, mut peer) = (Vec::new(), Vec::new());
    for number in 0..FILES {
        let variant = content.variant(number);
        uids.push(first.store(&variant)?);
        peer.push(get(&nginx.add(&format!("{number}.bin"), &variant)?));
    }
    let own: Vec<_> = first.download_links(&uids)?.iter().map(|link| get(&link.url)).collect();
    for (number, (own, peer)) in own.iter().zip(&peer).enumerate() {
        first.verify(own, &content.variant(number))?;
        first_to_nginx.verify(peer, &content.variant(number))?;
    }
    let count = scale.halved(40_000);
    let (server_ids, nginx_ids) = ([server.id()], nginx.ids()?);
    let rounds = alternate(
        scale,
        |_| get_in_turn(&server_ids, &mut to_server, &own, count),
        |_| get_in_turn(&nginx_ids, &mut to_nginx, &peer, count),
    )?;
    let both = (&rounds.0, &rounds.1);
    let each = 1e6 / count as f64;
    let (case, rate) = ("small-downloads", |sample: &Sample| count as f64 / sample.wall);
    report.against(case, "per s", both, rate, Target::None);
    let cpu = |sample: &Sample| sample.server_cpu * each;
    report.against(case, "CPU µs each", both, cpu, Target::AtMost(1.5));
    report.against(case, "client's CPU µs each", both, |sample| sample.client_cpu * each, Target::None);
    Ok(())
}

/// Spreads `count` requests over the connections. Each connection cycles through all files, from a
/// different start.
pub(super) fn get_in_turn(
    server: &[u32],
    connections: &mut [Connection],
    requests: &[Vec<u8>],
    count: usize,
) -> Result<Sample> {
    measure::sample(server, || {
        run_in_threads(connections, |number, connection| {
            let start = number * requests.len() / CONNECTIONS;
            let mut requests = requests.iter().cycle().skip(start).take(count / CONNECTIONS);
            requests.try_for_each(|request| connection.get(request, SMALL as u64))
        })
    })
}

/// Creates upload links and download links, one per request.
pub(super) fn links(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let server = Server::start(folder)?;
    let content = Content::new(SMALL);
    let mut connections = Connection::open_many(server.address(), CONNECTIONS)?;
    let first = connections.first_mut().context("no connection")?;
    let uid = first.store(&content.variant(0))?;
    first.verify_stored(&uid, &content.variant(0))?;
    let kinds = [
        ("upload links", upload_link_request("file.bin")?, scale.halved(16_000)),
        ("download links", download_link_request(&[uid])?, scale.halved(40_000)),
    ];
    for (what, request, count) in kinds {
        let rounds = without_peer(scale, |_| {
            measure::sample(&[server.id()], || {
                run_in_threads(&mut connections, |_, connection| {
                    (0..count / CONNECTIONS)
                        .try_for_each(|_| connection.exchange(&[&request], |_| {}).map(drop))
                })
            })
        })?;
        rates(report, "links", what, &rounds, count);
    }
    report.remark(
        "links: the Go program issued 1,061 upload links and 1,200 to 2,400 download links a second with 2 cores, \
         measured at another time; the aim is 4 and 6 times as many.",
    );
    Ok(())
}

/// Durable uploads of small files with different content: for each file, creates a link and sends
/// the content.
pub(super) fn uploads(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let server = Server::start(folder)?;
    let content = Content::new(SMALL);
    let mut connections = Connection::open_many(server.address(), CONNECTIONS)?;
    let (rounds, count) = store_all(scale, &server, &mut connections, &content)?;
    let first = connections.first_mut().context("no connection")?;
    let variant = content.variant(usize::MAX);
    let uid = first.store(&variant)?;
    first.verify_stored(&uid, &variant)?;
    rates(report, "small-uploads", "files", &rounds, count);
    report.remark(
        "small-uploads: the Go program stored 350 files a second on PostgreSQL, not durable, measured at another time; \
         the aim is 1.5 times as many.",
    );
    Ok(())
}

/// Stores small files with different content over all connections, in several rounds. Also returns
/// the number of files in each round.
pub(super) fn store_all(
    scale: &Scale,
    server: &Server,
    connections: &mut [Connection],
    content: &Content,
) -> Result<(Rounds, usize)> {
    let each = scale.halved(400);
    let number = |round, connection, index| (round * CONNECTIONS + connection) * each + index;
    let rounds = without_peer(scale, |round| {
        measure::sample(&[server.id()], || {
            run_in_threads(connections, |connection_number, connection| {
                (0..each).try_for_each(|index| {
                    let variant = content.variant(number(round, connection_number, index));
                    connection.store(&variant).map(drop)
                })
            })
        })
    })?;
    Ok((rounds, each * CONNECTIONS))
}

fn rates(report: &mut Report, case: &str, what: &str, rounds: &Rounds, count: usize) {
    let each = 1e6 / count as f64;
    let rate = rounds.median(|sample| count as f64 / sample.wall);
    report.figure(case, &format!("{what} per s"), rate, Target::None);
    let cpu = rounds.median(|sample| sample.server_cpu * each);
    report.figure(case, &format!("{what}, CPU µs each"), cpu, Target::None);
    let cpu = rounds.median(|sample| sample.client_cpu * each);
    report.figure(case, &format!("{what}, client's CPU µs each"), cpu, Target::None);
}
