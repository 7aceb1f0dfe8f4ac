//! Four times as much as the machine carries: what is taken on is done as well as ever, and the rest is refused at once.

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

/// With how many connections it is looked for what the machine carries.
const CARRIED: [usize; 3] = [8, 32, 128];
/// How many send four times as much. More than there may be transfers, or requests, at the same time.
const CONNECTIONS: usize = 2048;
const TIMES: f64 = 4.0;
/// Files to read.
const FILES: usize = 200;
/// How many reads there are for each file that is stored, durably.
const READS: usize = 4;
/// How long each way of loading it takes.
const PHASE: Duration = Duration::from_secs(8);
/// How closely it is watched how it recovers.
const WINDOW: Duration = Duration::from_millis(250);
const RECOVERY: Duration = Duration::from_secs(10);
/// How long one that is taken on may take, in milliseconds: less than clients are prepared to wait.
const P99: f64 = 4000.0;
/// How much memory it may take, in MiB: 30 KiB for each connection, and 256 KiB for each of the transfers that
/// `limits.max_transfers` lets begin.
const MEMORY: f64 = 60.0 + 1024.0 / 4.0;
/// What an answer has at most, in bytes.
const ANSWER: usize = 2 * SMALL;

/// A connection of one of many clients, which all run on one thread: with a thread each the system would hardly let the server run.
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

    /// Sends a request; gives the body of the answer, if it says that it was done.
    async fn ask(&mut self, request: &[&[u8]]) -> Result<Option<&[u8]>> {
        for piece in request {
            self.stream.write_all(piece).await?;
        }
        let (mut filled, mut whole, mut closes) = (0, None, false);
        let (status, body) = loop {
            let count = self.stream.read(self.answer.get_mut(filled..).unwrap_or_default()).await?;
            ensure!(count > 0, "the connection was closed before there was a whole answer");
            filled += count;
            let read = self.answer.get(..filled).unwrap_or_default();
            if whole.is_none()
                && let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n")
            {
                let start = end + 4;
                let head = read.get(..start).unwrap_or_default();
                let (status, length) = status_and_length(head)?;
                closes = field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                whole = Some((status, start..start + usize::try_from(length)?));
            }
            if let Some((status, body)) = &whole
                && body.end <= filled
            {
                break (*status, body.clone());
            }
        };
        // Who refuses a body need not read it, and then cannot go on with the connection.
        if closes {
            self.stream = Self::connect(self.address).await?;
        }
        Ok(self.answer.get(body).filter(|_| status == 200))
    }
}

/// What came of a load.
#[derive(Default)]
struct Outcome {
    /// How long each one took that was served, in milliseconds.
    served: Vec<f64>,
    refused: usize,
    seconds: f64,
}

impl Outcome {
    fn goodput(&self) -> f64 {
        self.served.len() as f64 / self.seconds
    }

    /// How long all but one in a hundred took at most, in milliseconds.
    fn p99(&mut self) -> f64 {
        self.served.sort_by(f64::total_cmp);
        self.served.get(self.served.len() * 99 / 100).copied().unwrap_or(f64::NAN)
    }
}

/// What clients do: read small files, and store one now and then.
struct Work {
    content: Content,
    reads: Vec<Vec<u8>>,
    link: Vec<u8>,
    stored: AtomicUsize,
    /// How many reads there are for each file that is stored.
    reads_per_store: usize,
    /// Of one thread.
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

    /// Does the `turn`th piece of work of a client; `false`: it was refused.
    async fn run(&self, client: &mut Client, turn: usize) -> Result<bool> {
        if turn % (self.reads_per_store + 1) < self.reads_per_store {
            let read = self.reads.get(turn % FILES).context("there is nothing to read")?;
            let content = client.ask(&[read]).await?;
            ensure!(content.is_none_or(|content| content.len() == SMALL), "something else came");
            return Ok(content.is_some());
        }
        let Some(links) = client.ask(&[&self.link]).await? else {
            return Ok(false);
        };
        let links: Envelope<Vec<UploadLinks>> = serde_json::from_slice(links)?;
        let link = links.data.into_iter().next().context("no link came")?.url.single;
        let content = self.content.variant(self.stored.fetch_add(1, Ordering::Relaxed));
        let head = put_head(&link, &content);
        Ok(client.ask(&[&head, content.rest()]).await?.is_some())
    }

    /// Lets a client work until a time is over, at these intervals; without one, as fast as it is served. Who is late does not
    /// wait.
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

    /// Loads the server for a time by so many connections, with so many pieces of work a second in all, if that is said.
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
                    // Not all at the same moment.
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

/// Goodput, latency and memory under four times the load that the server carries, and how soon all is well afterwards.
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
    measure::forget_peak(server.id())?;
    let mut overloaded = work.load(&server, CONNECTIONS, Some(TIMES * best), time)?;
    let peak = measure::peak_rss(server.id())?;
    let recovery = recovery(&work, &server, carried, best)?;
    let case = "overload";
    report.figure(case, "best goodput, per s", best, Target::None);
    report.figure(case, "p99 then, ms", p99, Target::None);
    report.figure(case, "goodput at 4 times that, per s", overloaded.goodput(), Target::AtLeast(0.8 * best));
    report.figure(case, "p99 of those served then, ms", overloaded.p99(), Target::AtMost(P99));
    report.figure(case, "refused then, per s", overloaded.refused as f64 / overloaded.seconds, Target::None);
    report.figure(case, "RSS over before, MiB", peak - idle, Target::AtMost(MEMORY));
    report.figure(case, "all is well after, s", recovery, Target::AtMost(5.0));
    Ok(())
}

/// How many connections ask for the state of the service, each as fast as it is told.
const PROBING: usize = 200;
/// How many upload meanwhile.
const UPLOADING: usize = 16;

/// What uploads lose to anonymous probes.
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
    report.figure(case, "uploads beside probes, of those without", beside / alone, Target::AtLeast(0.9));
    Ok(())
}

/// Asks for the state of the service on many connections until it is told to stop; how many answers came.
fn probe(address: SocketAddr, stop: &AtomicBool) -> Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n".as_slice();
    runtime.block_on(async {
        let probers = (0..PROBING).map(async |_| {
            let (mut client, mut answers) = (Client::open(address).await?, 0);
            while !stop.load(Ordering::Relaxed) {
                ensure!(client.ask(&[request]).await?.is_some(), "it is not ready");
                answers += 1;
            }
            anyhow::Ok(answers)
        });
        Ok(try_join_all(probers).await?.into_iter().sum())
    })
}

/// After how many seconds it carries what it carried before.
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
