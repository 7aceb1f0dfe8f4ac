//! Transfers of large files with an S3 store: through osproxy, and directly.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};

use super::{
    GIB, Scale, alternate, md5_alone,
    parts::{MIB, Upload},
};
use crate::{
    client::{Connection, Network, get, run_in_threads},
    content::{Content, Variant},
    measure::{self, Rounds, Sample},
    report::{Report, Target},
    s3::{Store, ranged},
    server::Server,
    shares::Shares,
};

const PART: usize = 8 * MIB;
/// Number of parts or ranges that are transferred concurrently.
const CONNECTIONS: usize = 4;
/// Number of files that are downloaded in a round.
const FILES: usize = 4;

/// Bandwidth of a network that is slower than the machine, in bytes per second.
const GIGABIT: f64 = 125e6;
const AT_A_GIGABIT: &str = "at 1 Gbit/s";
const IN_SHARES: &str = "in equal shares";

/// Target for the throughput, as a fraction of the store's own throughput.
const THROUGHPUT: Target = Target::AtLeast(0.9);
/// Target for processor seconds per GiB.
const CPU: Target = Target::AtMost(1.5);

const REMARK: &str = "s3-*: client, osproxy and store share the cores of this machine. When all cores are \
     busy, the throughput depends on the CPU time of all three. At 1 Gbit/s the client simulates such a network. In \
     equal shares, each of the three has a third of the cores, also when the client uses the store directly.";

/// osproxy, its store, and the client's connections to both.
struct Bench<'a> {
    scale: &'a Scale,
    store: Store,
    server: Server,
    content: Content,
    to_server: Vec<Connection>,
    to_store: Vec<Connection>,
}

impl<'a> Bench<'a> {
    fn start(scale: &'a Scale, folder: &Path) -> Result<Self> {
        let store = Store::started()?;
        let server = Server::start_with(folder, &store.settings())?;
        let to_server = Connection::open_many(server.address(), CONNECTIONS)?;
        let to_store = Connection::open_many(store.address(), CONNECTIONS)?;
        Ok(Self { scale, store, server, content: Content::new(scale.large), to_server, to_store })
    }
}

/// Gives client, osproxy and store a third of the cores each; `None` if this machine cannot.
fn shares(server: &Server, store: &Store) -> Option<Shares> {
    let processes = [std::process::id(), server.id(), store.id()];
    Shares::equal(&processes).inspect_err(|error| eprintln!("  not {IN_SHARES}: {error:#}")).ok()
}

/// Uploads in parts, from the first part until the store has one object. Each upload is verified
/// before the next step; the verification is measured separately.
pub(super) fn uploads(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let case = "s3-upload";
    let mut bench = Bench::start(scale, folder)?;
    measure::reset_peak_rss(bench.server.id())?;
    let (behind, md5) = upload(&mut bench, report, ("parts", 0, None))?;
    upload(&mut bench, report, (AT_A_GIGABIT, scale.rounds + 1, Some(GIGABIT)))?;
    if let Some(_shares) = shares(&bench.server, &bench.store) {
        upload(&mut bench, report, (IN_SHARES, 2 * (scale.rounds + 1), None))?;
    }
    let peak = measure::peak_rss(bench.server.id())?;
    let size = scale.large as f64;
    let cpu = |sample: &Sample| sample.server_cpu * GIB / size;
    report.figure(case, "md5 alone, CPU s/GiB", md5.median(cpu), Target::None);
    report.figure(case, "verification afterwards, osproxy's CPU s/GiB", behind.median(cpu), Target::None);
    let throughput = |sample: &Sample| size / 1e6 / sample.wall;
    report.figure(case, "verification afterwards, MB/s", behind.median(throughput), Target::None);
    report.figure(case, "peak RSS MiB", peak, Target::None);
    Ok(())
}

/// Uploads the variants from number `start` on. Returns the rounds of the verification, and the
/// rounds of hashing with md5.
fn upload(
    bench: &mut Bench<'_>,
    report: &mut Report,
    (what, start, network): (&str, usize, Option<f64>),
) -> Result<(Rounds, Rounds)> {
    let Bench { scale, store, server, content, to_server, to_store } = bench;
    let mut through = ThroughOsproxy::new(server, store);
    let (mut behind, mut md5, mut last) = (Rounds::default(), Rounds::default(), None);
    let own = |round| {
        let variant = content.variant(start + round);
        let first = to_server.first_mut().context("no connection")?;
        let upload = Upload::new(first, &variant, PART)?;
        let sample =
            through.sample(round, || with_network(network, to_server, |all| upload.send(all).map(drop)))?;
        let first = to_server.first_mut().context("no connection")?;
        let verification = measure::sample(&[server.id()], || first.wait_until_verified(&variant.md5()))?;
        if round > 0 {
            behind.push(verification);
            md5.push(md5_alone(&variant)?);
        }
        last = Some((upload.uid, start + round));
        Ok(sample)
    };
    let peer = |round| {
        let object = object(start + round);
        let parts = content.variant(start + round).parts(PART);
        let md5s: Vec<_> = parts.iter().map(Variant::md5).collect();
        measure::sample(&[store.id()], || {
            with_network(network, to_store, |all| send(store, all, &object, &parts, &md5s))
        })
    };
    let (own, peer) = alternate(scale, own, peer)?;
    let (uid, number) = last.context("no round was measured")?;
    let (Some(first), Some(first_to_store)) = (to_server.first_mut(), to_store.first_mut()) else {
        return Ok((behind, md5));
    };
    first.verify_stored(&uid, &content.variant(number))?;
    first_to_store.verify(&store.get(&object(number))?, &content.variant(number))?;
    through.report(report, ("s3-upload", what), (&own, &peer), scale.large as f64);
    Ok((behind, md5))
}

/// Downloads in ranges, and as a whole.
pub(super) fn downloads(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let Bench { store, server, content, mut to_server, mut to_store, .. } = Bench::start(scale, folder)?;
    let variant = content.variant(0);
    let parts = variant.parts(PART);
    let md5s: Vec<_> = parts.iter().map(Variant::md5).collect();
    send(&store, &mut to_store, &object(0), &parts, &md5s)?;
    let (Some(first), Some(first_to_store)) = (to_server.first_mut(), to_store.first_mut()) else {
        return Ok(());
    };
    let uid = first.store(&variant)?;
    let link = first.download_links(&[uid])?.into_iter().next().context("the answer has no link")?;
    let own = get(&link.url);
    first.verify(&own, &variant)?;
    first_to_store.verify(&store.get(&object(0))?, &variant)?;

    let ranges = |step: usize| -> Vec<_> {
        let starts = (0..scale.large).step_by(step);
        starts.map(|start| start..scale.large.min(start + step)).collect()
    };
    for (what, connections, ranges, files, network) in [
        ("ranges", CONNECTIONS, ranges(PART), FILES, None),
        ("whole", 1, ranges(scale.large), FILES, None),
        (AT_A_GIGABIT, CONNECTIONS, ranges(PART), 1, Some(GIGABIT)),
        (IN_SHARES, CONNECTIONS, ranges(PART), FILES, None),
    ] {
        let shares = if what == IN_SHARES { shares(&server, &store) } else { None };
        if what == IN_SHARES && shares.is_none() {
            continue;
        }
        let requests = |request: &[u8]| -> Vec<_> {
            let once: Vec<_> = ranges.iter().map(|range| (ranged(request, range), range.len())).collect();
            vec![once; files].concat()
        };
        let own = requests(&own);
        // New connections: idle ones may have been closed.
        let mut to_server = Connection::open_many(server.address(), connections)?;
        let mut to_store = Connection::open_many(store.address(), connections)?;
        let mut through = ThroughOsproxy::new(&server, &store);
        let (own, peer) = alternate(
            scale,
            |round| through.sample(round, || with_network(network, &mut to_server, |all| get_all(all, &own))),
            |_| {
                // Signed in each round: a signature is valid for 15 minutes only.
                let peer = requests(&store.get(&object(0))?);
                measure::sample(&[store.id()], || {
                    with_network(network, &mut to_store, |all| get_all(all, &peer))
                })
            },
        )?;
        through.report(report, ("s3-download", what), (&own, &peer), (files * scale.large) as f64);
    }
    Ok(())
}

/// Runs `work` with connections that share one simulated network. `None`: the bandwidth is not
/// limited.
fn with_network(
    bytes_per_second: Option<f64>,
    connections: &mut [Connection],
    work: impl FnOnce(&mut [Connection]) -> Result<()>,
) -> Result<()> {
    let network = bytes_per_second.map(Network::new);
    for connection in &mut *connections {
        connection.set_network(network.clone());
    }
    let outcome = work(connections);
    for connection in connections {
        connection.set_network(None);
    }
    outcome
}

/// The key of the object that the client stores directly in this round.
fn object(round: usize) -> String {
    format!("directly/{round}.bin")
}

/// Sends the parts to the store, each over the next free connection, and completes the multipart
/// upload.
///
/// The time includes signing, which takes some microseconds per part.
fn send(
    store: &Store,
    connections: &mut [Connection],
    object: &str,
    parts: &[Variant<'_>],
    md5s: &[String],
) -> Result<()> {
    let first = connections.first_mut().context("no connection")?;
    let upload = store.begin(first, object)?;
    let next = AtomicUsize::new(0);
    run_in_threads(connections, |_, connection| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(index) else {
                return Ok(());
            };
            let mut first = store.part(object, &upload, index + 1, part.len())?;
            first.extend_from_slice(part.first());
            connection.exchange(&[&first, part.rest()], |_| {})?;
        }
    })?;
    let first = connections.first_mut().context("no connection")?;
    let answer = first.text(&[&store.completion(object, &upload, md5s)?])?;
    ensure!(answer.contains("CompleteMultipartUploadResult"), "the upload is not complete: {answer}");
    Ok(())
}

/// Sends all requests, each over the next free connection, and checks the length of each answer.
fn get_all(connections: &mut [Connection], requests: &[(Vec<u8>, usize)]) -> Result<()> {
    let next = AtomicUsize::new(0);
    run_in_threads(connections, |_, connection| {
        while let Some((request, length)) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
            connection.get(request, *length as u64)?;
        }
        Ok(())
    })
}

/// Processor time of the rounds through osproxy: that of the store, and that of osproxy and the
/// store together.
struct ThroughOsproxy {
    server: u32,
    store: u32,
    of_store: Rounds,
    of_both: Rounds,
}

impl ThroughOsproxy {
    fn new(server: &Server, store: &Store) -> Self {
        let (server, store) = (server.id(), store.id());
        Self { server, store, of_store: Rounds::default(), of_both: Rounds::default() }
    }

    /// Measures `work` through osproxy. Returns the sample of osproxy alone.
    fn sample(&mut self, round: usize, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
        let mut of_store = None;
        let own = measure::sample(&[self.server], || {
            of_store = Some(measure::sample(&[self.store], work)?);
            Ok(())
        })?;
        // The first round is a warm-up.
        if let Some(of_store) = of_store.filter(|_| round > 0) {
            self.of_store.push(of_store);
            self.of_both.push(Sample { server_cpu: own.server_cpu + of_store.server_cpu, ..own });
        }
        Ok(own)
    }

    /// Reports the rounds of `size` bytes through osproxy, compared with the rounds directly to the
    /// store.
    fn report(
        &self,
        report: &mut Report,
        (case, what): (&str, &str),
        (own, peer): (&Rounds, &Rounds),
        size: f64,
    ) {
        let row = |figure: &str| format!("{what}, {figure}");
        let throughput = |sample: &Sample| size / 1e6 / sample.wall;
        report.against(case, &row("MB/s (peer: the store)"), (own, peer), throughput, THROUGHPUT);
        let cpu = |sample: &Sample| sample.server_cpu * GIB / size;
        report.figure(case, &row("osproxy's CPU s/GiB"), own.median(cpu), CPU);
        report.against(case, &row("store's CPU s/GiB"), (&self.of_store, peer), cpu, Target::None);
        let cpu = |sample: &Sample| sample.client_cpu * GIB / size;
        report.against(case, &row("client's CPU s/GiB"), (own, peer), cpu, Target::None);
        let all = (&self.of_both, peer);
        let cpu = |sample: &Sample| (sample.server_cpu + sample.client_cpu) * GIB / size;
        report.against(case, &row("CPU s/GiB of all three"), all, cpu, Target::None);
        let cores = |sample: &Sample| (sample.server_cpu + sample.client_cpu) / sample.wall;
        report.against(case, &row("busy cores"), all, cores, Target::None);
        report.remark(REMARK);
    }
}
