//! Four times as much as the machine carries: what is taken on is done as well as ever, and the rest is refused at once.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Scale, small::SMALL};
use crate::{
    client::{Connection, at_once, get, upload_link_request},
    content::Content,
    measure,
    report::{Report, Target},
    server::Server,
};

/// With how many connections it is looked for what the machine carries.
const CARRIED: [usize; 3] = [8, 32, 128];
/// How many send four times as much. More than there may be transfers, and requests, at the same time.
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
}

impl Work {
    fn prepare(server: &Server) -> Result<Self> {
        let content = Content::new(SMALL);
        let mut connection = Connection::open(server.address())?;
        let uids = (0..FILES).map(|number| connection.store(&content.variant(number)));
        let uids: Vec<_> = uids.collect::<Result<_>>()?;
        let reads: Vec<_> = connection.download_links(&uids)?.iter().map(|link| get(&link.url)).collect();
        for (number, read) in reads.iter().enumerate() {
            connection.verify(read, &content.variant(number))?;
        }
        Ok(Self { content, reads, link: upload_link_request("file.bin")?, stored: AtomicUsize::new(FILES) })
    }

    /// Does the `turn`th piece of work of a client; `false`: it was refused.
    fn run(&self, connection: &mut Connection, turn: usize) -> Result<bool> {
        if turn % (READS + 1) < READS {
            let read = self.reads.get(turn % FILES).context("there is nothing to read")?;
            return connection.ask(read).map(|status| status == 200);
        }
        let Some(link) = connection.ask_for_link(&self.link)? else {
            return Ok(false);
        };
        let number = self.stored.fetch_add(1, Ordering::Relaxed);
        connection.ask_to_put(&link, &self.content.variant(number)).map(|status| status == 200)
    }

    /// Loads the server for a time: each connection as fast as it is served, or so many pieces of work a second in all. Who
    /// is late does not wait.
    fn load(
        &self,
        server: &Server,
        connections: usize,
        rate: Option<f64>,
        time: Duration,
    ) -> Result<Outcome> {
        let connections = Connection::open_many(server.address(), connections)?;
        let interval = rate.map(|rate| Duration::from_secs_f64(connections.len() as f64 / rate));
        let count = u32::try_from(connections.len())?;
        let mut clients: Vec<_> =
            connections.into_iter().map(|connection| (connection, Outcome::default())).collect();
        let start = Instant::now();
        at_once(&mut clients, |number, (connection, outcome)| {
            // Not all at the same moment.
            let mut due = start + interval.unwrap_or_default() * u32::try_from(number)? / count;
            for turn in number.. {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due += interval.unwrap_or_default();
                let begun = Instant::now();
                if begun.duration_since(start) >= time {
                    break;
                }
                if self.run(connection, turn)? {
                    outcome.served.push(begun.elapsed().as_secs_f64() * 1e3);
                } else {
                    outcome.refused += 1;
                    // Who refuses a body need not read it, and then cannot go on with the connection.
                    *connection = Connection::open(server.address())?;
                }
            }
            Ok(())
        })?;
        let mut all = Outcome { seconds: start.elapsed().as_secs_f64(), ..Outcome::default() };
        for (_, outcome) in clients {
            all.served.extend(outcome.served);
            all.refused += outcome.refused;
        }
        Ok(all)
    }
}

/// Goodput, latency and memory under four times the load that the server carries, and how soon all is well afterwards.
pub(super) fn overload(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let server = Server::start(folder)?;
    let work = Work::prepare(&server)?;
    let time = if scale.quick { PHASE / 2 } else { PHASE };
    let (mut best, mut carried) = (0.0, 0);
    let mut p99 = f64::NAN;
    for connections in CARRIED {
        let mut outcome = work.load(&server, connections, None, time)?;
        let goodput = outcome.goodput();
        eprintln!("  {connections} connections: {goodput:.0} per s, p99 {:.1} ms", outcome.p99());
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
    report.figure(case, "p99 of those served then, ms", overloaded.p99(), Target::AtMost(2000.0));
    report.figure(case, "refused then, per s", overloaded.refused as f64 / overloaded.seconds, Target::None);
    report.figure(case, "RSS over before, MiB", peak - idle, Target::AtMost(128.0));
    report.figure(case, "all is well after, s", recovery, Target::AtMost(3.0));
    Ok(())
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
