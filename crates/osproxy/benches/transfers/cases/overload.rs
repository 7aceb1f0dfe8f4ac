//! Four times the load that the machine can serve. The service must serve admitted requests in
//! time, and reject the others at once.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use osproxy_api::v0::{Envelope, UploadLinks};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

use super::{Scale, small::SMALL};
use crate::{
    client::{Connection, field, get, put_head, status_and_length, upload_link_request},
    content::Content,
    measure::{self, Sample},
    report::{Report, Target},
    server::Server,
};

/// Numbers of connections that are tried to find the maximum throughput.
const CARRIED: [usize; 3] = [8, 32, 128];
/// Number of connections under the fourfold load. It exceeds the limits of concurrent transfers and
/// requests.
const CONNECTIONS: usize = 2048;
const TIMES: f64 = 4.0;
/// Number of files to read.
const FILES: usize = 200;
/// Number of reads for each file that is stored durably.
const READS: usize = 4;
/// Duration of each phase.
const PHASE: Duration = Duration::from_secs(8);
/// Duration of each measurement during the recovery.
const WINDOW: Duration = Duration::from_millis(250);
const RECOVERY: Duration = Duration::from_secs(10);
/// Limit for the latency of admitted requests, in milliseconds. It is below the timeout of typical
/// clients.
const P99: f64 = 4000.0;
/// Limit for the increase of memory, in MiB: 30 KiB for each connection, and 256 KiB for each of
/// the transfers that `limits.max_transfers` admits.
const MEMORY: f64 = 60.0 + 1024.0 / 4.0;
/// Maximum size of an answer, in bytes.
const ANSWER: usize = 2 * SMALL;

/// A client with its connection. All clients share one thread: with a thread each, they would leave
/// the server too little processor time.
struct Client {
    address: SocketAddr,
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = Self::connect(address).await?;
        Ok(Self { address, stream, answer: vec![0; ANSWER] })
    }

    async fn connect(address: SocketAddr) -> Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends a request; returns the body of a successful answer, or `None` for a refusal.
    async fn ask(&mut self, request: &[&[u8]]) -> Result<Option<&[u8]>> {
        for piece in request {
            self.stream.write_all(piece).await?;
        }
        let (mut filled, mut whole, mut closes) = (0, None, false);
        let (status, body) = loop {
            let count = self.stream.read(self.answer.get_mut(filled..).unwrap_or_default()).await?;
            ensure!(count > 0, "the connection was closed before the end of the answer");
            filled += count;
            let read = self.answer.get(..filled).unwrap_or_default();
            if whole.is_none()
                && let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n")
            {
                let start = end + 4;
                let head = read.get(..start).unwrap_or_default();
                let (status, length) = status_and_length(head)?;
                let length = length.context("the answer is chunked")?;
                closes = field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                whole = Some((status, start..start + usize::try_from(length)?));
            }
            if let Some((status, body)) = &whole
                && body.end <= filled
            {
                break (*status, body.clone());
            }
        };
        // A server may reject a request without reading its body, but then has to close the
        // connection.
        if closes {
            self.stream = Self::connect(self.address).await?;
        }
        Ok(self.answer.get(body).filter(|_| status == 200))
    }
}

/// The result of a load.
#[derive(Default)]
struct Outcome {
    /// The latency of each served request, in milliseconds.
    served: Vec<f64>,
    refused: usize,
    seconds: f64,
}

impl Outcome {
    fn goodput(&self) -> f64 {
        self.served.len() as f64 / self.seconds
    }

    /// The 99th percentile of the latency, in milliseconds.
    fn p99(&mut self) -> f64 {
        self.served.sort_by(f64::total_cmp);
        self.served.get(self.served.len() * 99 / 100).copied().unwrap_or(f64::NAN)
    }
}

/// The work of the clients: they read small files, and store a small file after some reads.
struct Work {
    content: Content,
    reads: Vec<Vec<u8>>,
    link: Vec<u8>,
    stored: AtomicUsize,
    /// Reads for each file that is stored.
    reads_per_store: usize,
    /// Runs all clients on a single thread.
    runtime: Runtime,
}

impl Work {
    fn prepare(server: &Server, reads_per_store: usize) -> Result<Self> {
        let content = Content::new(SMALL);
        let mut connection = Connection::open(server.address())?;
        let uids = (0..FILES).map(|number| connection.store(&content.variant(number)));
        let uids: Vec<_> = uids.collect::<Result<_>>()?;
        let reads: Vec<_> = connection.download_links(&uids)?.iter().map(|link| get(&link.url)).collect();
        for (number, read) in reads.iter().enumerate() {
            connection.verify(read, &content.variant(number))?;
        }
        let (link, stored) = (upload_link_request("file.bin")?, AtomicUsize::new(FILES));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { content, reads, link, stored, reads_per_store, runtime })
    }

    /// Runs the `turn`th operation of a client; returns `false` if it was refused.
    async fn run(&self, client: &mut Client, turn: usize) -> Result<bool> {
        if turn % (self.reads_per_store + 1) < self.reads_per_store {
            let read = self.reads.get(turn % FILES).context("no file to read")?;
            let content = client.ask(&[read]).await?;
            ensure!(content.is_none_or(|content| content.len() == SMALL), "received other content");
            return Ok(content.is_some());
        }
        let Some(links) = client.ask(&[&self.link]).await? else {
            return Ok(false);
        };
        let links: Envelope<Vec<UploadLinks>> = serde_json::from_slice(links)?;
        let link = links.data.into_iter().next().context("the answer has no link")?.url.single;
        let content = self.content.variant(self.stored.fetch_add(1, Ordering::Relaxed));
        let head = put_head(&link, &content);
        Ok(client.ask(&[&head, content.rest()]).await?.is_some())
    }

    /// Runs a client until `time` has passed since `start`. Operations are due at intervals; an
    /// operation that is overdue begins at once. With an interval of 0, each operation begins when
    /// the last one has ended.
    async fn work(
        &self,
        (number, mut client): (usize, Client),
        (start, time): (Instant, Duration),
        (interval, offset): (Duration, Duration),
    ) -> Result<Outcome> {
        let (mut outcome, mut due) = (Outcome::default(), start + offset);
        for turn in number.. {
            let now = Instant::now();
            if due > now {
                tokio::time::sleep_until(due.into()).await;
            }
            due += interval;
            let begun = Instant::now();
            if begun.duration_since(start) >= time {
                break;
            }
            if self.run(&mut client, turn).await? {
                outcome.served.push(begun.elapsed().as_secs_f64() * 1e3);
            } else {
                outcome.refused += 1;
            }
        }
        Ok(outcome)
    }

    /// Loads the server for `time` over `connections` connections. With a `rate`, all clients
    /// together begin that many operations per second; without one, each client works as fast as it
    /// is served.
    fn load(
        &self,
        server: &Server,
        connections: usize,
        rate: Option<f64>,
        time: Duration,
    ) -> Result<Outcome> {
        let interval = rate.map_or(0.0, |rate| connections as f64 / rate);
        let (mut outcomes, mut seconds) = (Vec::new(), 0.0);
        let sample = measure::sample(&[server.id()], || {
            self.runtime.block_on(async {
                let clients = try_join_all((0..connections).map(|_| Client::open(server.address()))).await?;
                let start = Instant::now();
                let working = clients.into_iter().enumerate().map(|(number, client)| {
                    // The clients start at different moments.
                    let offset = interval * number as f64 / connections as f64;
                    let pace = (Duration::from_secs_f64(interval), Duration::from_secs_f64(offset));
                    self.work((number, client), (start, time), pace)
                });
                outcomes = try_join_all(working).await?;
                seconds = start.elapsed().as_secs_f64();
                Ok(())
            })
        })?;
        let times = outcomes.iter().flat_map(|outcome| outcome.served.iter().copied()).collect();
        let refused = outcomes.iter().map(|outcome| outcome.refused).sum();
        let mut all = Outcome { served: times, refused, seconds };
        let Sample { server_cpu, client_cpu, wall } = sample;
        eprintln!(
            "  {connections} connections: {:.0} per s, refused {:.0}, p99 {:.1} ms, CPU of server and client {:.2}, {:.2}",
            all.goodput(),
            all.refused as f64 / seconds,
            all.p99(),
            server_cpu / wall,
            client_cpu / wall,
        );
        Ok(all)
    }
}

/// Goodput, latency and memory under four times the maximum load, and the time to recover
/// afterwards.
pub(super) fn overload(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let server = Server::start(folder)?;
    let work = Work::prepare(&server, READS)?;
    let time = if scale.quick { PHASE / 2 } else { PHASE };
    let (mut best, mut carried) = (0.0, 0);
    let mut p99 = f64::NAN;
    for connections in CARRIED {
        let mut outcome = work.load(&server, connections, None, time)?;
        let goodput = outcome.goodput();
        if goodput > best {
            (best, carried, p99) = (goodput, connections, outcome.p99());
        }
    }
    let idle = measure::rss(server.id())?;
    measure::reset_peak_rss(server.id())?;
    let mut overloaded = work.load(&server, CONNECTIONS, Some(TIMES * best), time)?;
    let peak = measure::peak_rss(server.id())?;
    let recovery = recovery(&work, &server, carried, best)?;
    let case = "overload";
    report.figure(case, "maximum goodput, per s", best, Target::None);
    report.figure(case, "p99 then, ms", p99, Target::None);
    report.figure(case, "goodput under overload, per s", overloaded.goodput(), Target::AtLeast(0.8 * best));
    report.figure(case, "p99 under overload, ms", overloaded.p99(), Target::AtMost(P99));
    report.figure(case, "refused then, per s", overloaded.refused as f64 / overloaded.seconds, Target::None);
    report.figure(case, "RSS increase, MiB", peak - idle, Target::AtMost(MEMORY));
    report.figure(case, "recovery time, s", recovery, Target::AtMost(5.0));
    Ok(())
}

/// Number of connections that send probes; each sends the next one when the last is answered.
const PROBING: usize = 200;
/// Number of connections that upload at the same time.
const UPLOADING: usize = 16;

/// The throughput that uploads lose to anonymous probes.
pub(super) fn probes(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let server = Server::start(folder)?;
    let work = Work::prepare(&server, 0)?;
    let time = if scale.quick { PHASE / 2 } else { PHASE };
    let (mut alone, mut beside, mut told) = (0.0, 0.0, 0);
    for round in 0..=scale.rounds {
        let undisturbed = work.load(&server, UPLOADING, None, time)?.goodput();
        let (stop, address) = (AtomicBool::new(false), server.address());
        let (disturbed, answers) = std::thread::scope(|scope| {
            let probing = scope.spawn(|| probe(address, &stop));
            let disturbed = work.load(&server, UPLOADING, None, time);
            stop.store(true, Ordering::Relaxed);
            let answers = probing.join().map_err(|_| anyhow::anyhow!("a prober panicked"))??;
            anyhow::Ok((disturbed?.goodput(), answers))
        })?;
        if round > 0 {
            (alone, beside, told) = (alone + undisturbed, beside + disturbed, told + answers);
        }
    }
    let (case, rounds) = ("probes", scale.rounds as f64);
    report.figure(case, "uploads without probes, per s", alone / rounds, Target::None);
    report.figure(case, "answers to probes, per s", told as f64 / rounds / time.as_secs_f64(), Target::None);
    report.figure(case, "uploads with probes, ratio to those without", beside / alone, Target::AtLeast(0.9));
    Ok(())
}

/// Probes the service on many connections until `stop` is set; returns the number of answers.
fn probe(address: SocketAddr, stop: &AtomicBool) -> Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n".as_slice();
    runtime.block_on(async {
        let probers = (0..PROBING).map(async |_| {
            let (mut client, mut answers) = (Client::open(address).await?, 0);
            while !stop.load(Ordering::Relaxed) {
                ensure!(client.ask(&[request]).await?.is_some(), "the service is not ready");
                answers += 1;
            }
            anyhow::Ok(answers)
        });
        Ok(try_join_all(probers).await?.into_iter().sum())
    })
}

/// Time until the throughput has recovered to 80 % of `best`, in seconds; infinite if it does not
/// recover within `RECOVERY`.
fn recovery(work: &Work, server: &Server, connections: usize, best: f64) -> Result<f64> {
    let start = Instant::now();
    while start.elapsed() < RECOVERY {
        let begun = start.elapsed();
        if work.load(server, connections, None, WINDOW)?.goodput() >= 0.8 * best {
            return Ok(begun.as_secs_f64());
        }
    }
    Ok(f64::INFINITY)
}
