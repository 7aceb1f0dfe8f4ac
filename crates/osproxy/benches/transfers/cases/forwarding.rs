//! Transfers of content on another node's disk: forwarded by the node that gets the request, or
//! requested directly from the node with the content.

use std::path::Path;

use anyhow::{Context, Result};

use super::{
    GIB, Scale, alternate,
    databases::Statements,
    parts::{MIB, Upload},
    small::{CONNECTIONS, SMALL, get_in_turn},
};
use crate::{
    client::{Connection, get},
    content::{Content, Variant},
    measure::{self, Sample},
    report::{Report, Target},
    server::Server,
};

const CASE: &str = "forwarding";
const PART: usize = 8 * MIB;
const ADMIN: &str = "OSPROXY_TEST_POSTGRES";

const REMARK: &str = "forwarding: the peer is the same request to the node with the content. Costs include both nodes; client, nodes \
     and PostgreSQL share the cores of this machine.";

/// Measures two nodes with a disk each. All content is on the disk of the first node.
pub(super) fn forwarding(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let variable = |name: &str| std::env::var(name).context("run this by `just bench`, which starts servers");
    let admin = variable(ADMIN)?;
    let _statements = Statements::open(&admin)?;
    let (server, _) = admin.rsplit_once('/').context("the URL names no database")?;
    let settings = [
        ("DATABASE__URL".to_owned(), format!("{server}/bench")),
        ("REDIS__URL".to_owned(), variable("OSPROXY_TEST_REDIS")?),
        ("REDIS__PREFIX".to_owned(), format!("bench-{}", std::process::id())),
        ("SERVER__DRAIN_DELAY".to_owned(), "0".to_owned()),
    ];
    let mut nodes = Vec::new();
    for name in ["owner", "other"] {
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        nodes.push(Server::start_with(&folder, &settings)?);
    }
    let [owner, other] = &*nodes else { return Ok(()) };
    parts(scale, report, owner, other)?;
    downloads(scale, report, owner, other)?;
    small(scale, report, owner, other)?;
    report.remark(REMARK);
    Ok(())
}

/// Sends parts, four at a time, until they are acknowledged. The first part goes to the first node,
/// which therefore keeps all parts.
fn parts(scale: &Scale, report: &mut Report, owner: &Server, other: &Server) -> Result<()> {
    let content = Content::new(scale.large);
    let mut to_owner = Connection::open_many(owner.address(), CONNECTIONS / 2)?;
    let mut to_other = Connection::open_many(other.address(), CONNECTIONS / 2)?;
    let ids = [owner.id(), other.id()];
    measure::reset_peak_rss(other.id())?;
    // The sample includes the merge request, which takes some milliseconds.
    let send = |round: usize, through_other: bool| {
        let variant = content.variant(2 * round + usize::from(through_other));
        let first = to_owner.first_mut().context("no connection")?;
        let upload = Upload::new(first, &variant, PART)?;
        upload.send_first(first)?;
        let connections = if through_other { &mut to_other } else { &mut to_owner };
        let sample = measure::sample(&ids, || upload.send(connections).map(drop))?;
        owner.wait_until_merged(&upload.uid)?;
        Ok(sample)
    };
    let send = std::cell::RefCell::new(send);
    let (own, peer) =
        alternate(scale, |round| send.borrow_mut()(round, true), |round| send.borrow_mut()(round, false))?;
    large(report, "parts", (&own, &peer), scale.large as f64);
    report.figure(
        CASE,
        "parts: peak RSS MiB of the forwarding node",
        measure::peak_rss(other.id())?,
        Target::None,
    );
    Ok(())
}

fn downloads(scale: &Scale, report: &mut Report, owner: &Server, other: &Server) -> Result<()> {
    let content = Content::new(scale.large);
    let variant = content.variant(usize::MAX);
    let mut to_owner = Connection::open(owner.address())?;
    let mut to_other = Connection::open(other.address())?;
    let request = link(&mut to_owner, &variant)?;
    to_other.verify(&request, &variant)?;
    let ids = [owner.id(), other.id()];
    let length = scale.large as u64;
    let (own, peer) = alternate(
        scale,
        |_| measure::sample(&ids, || to_other.get(&request, length)),
        |_| measure::sample(&ids, || to_owner.get(&request, length)),
    )?;
    large(report, "download", (&own, &peer), scale.large as f64);
    Ok(())
}

fn small(scale: &Scale, report: &mut Report, owner: &Server, other: &Server) -> Result<()> {
    let content = Content::new(SMALL);
    let mut to_owner = Connection::open_many(owner.address(), CONNECTIONS)?;
    let mut to_other = Connection::open_many(other.address(), CONNECTIONS)?;
    let first = to_owner.first_mut().context("no connection")?;
    let mut requests = Vec::new();
    for number in 0..200 {
        requests.push(link(first, &content.variant(number))?);
    }
    let (ids, count) = ([owner.id(), other.id()], scale.halved(16_000));
    let (own, peer) = alternate(
        scale,
        |_| get_in_turn(&ids, &mut to_other, &requests, count),
        |_| get_in_turn(&ids, &mut to_owner, &requests, count),
    )?;
    let rate = |sample: &Sample| count as f64 / sample.wall;
    report.against(CASE, "16 KiB downloads per s", (&own, &peer), rate, Target::None);
    let cpu = |sample: &Sample| sample.server_cpu * 1e6 / count as f64;
    report.against(CASE, "16 KiB downloads, nodes' CPU µs each", (&own, &peer), cpu, Target::None);
    Ok(())
}

fn link(connection: &mut Connection, content: &Variant<'_>) -> Result<Vec<u8>> {
    let uid = connection.store(content)?;
    let link = connection.download_links(&[uid])?.into_iter().next().context("the answer has no link")?;
    Ok(get(&link.url))
}

fn large(report: &mut Report, what: &str, both: (&measure::Rounds, &measure::Rounds), size: f64) {
    let throughput = |sample: &Sample| size / 1e6 / sample.wall;
    report.against(CASE, &format!("{what}, MB/s"), both, throughput, Target::None);
    let cpu = |sample: &Sample| sample.server_cpu * GIB / size;
    report.against(CASE, &format!("{what}, nodes' CPU s/GiB"), both, cpu, Target::None);
    let cpu = |sample: &Sample| sample.client_cpu * GIB / size;
    report.against(CASE, &format!("{what}, client's CPU s/GiB"), both, cpu, Target::None);
}
