//! Large files, one at a time.

use std::path::Path;

use anyhow::Result;

use super::{GIB, Scale, alternate, md5_alone};
use crate::{
    client::{Connection, get},
    content::Content,
    measure::{self, Sample},
    nginx::Nginx,
    report::{Report, Target},
    server::Server,
};

/// Number of files that are downloaded one after the other in a round.
const FILES: usize = 4;

pub(super) fn upload_raw(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    upload(scale, folder, report, "upload-raw", false, 1.9)
}

pub(super) fn upload_form(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    upload(scale, folder, report, "upload-form", true, 2.1)
}

/// Durable uploads with an expected md5. The peer is hashing the same bytes with md5.
fn upload(
    scale: &Scale,
    folder: &Path,
    report: &mut Report,
    case: &str,
    form: bool,
    target: f64,
) -> Result<()> {
    let server = Server::start(folder)?;
    let content = Content::new(scale.large);
    let mut connection = Connection::open(server.address())?;
    let mut last = None;
    measure::reset_peak_rss(server.id())?;
    let upload = |round| {
        let variant = content.variant(round);
        let link = connection.upload_link("file.bin")?;
        let target = format!("{}&md5={}", link.url.single, variant.md5());
        last = Some((link.uid, round));
        measure::sample(&[server.id()], || connection.put(&target, &variant, form))
    };
    let (own, md5) = alternate(scale, upload, |round| md5_alone(&content.variant(round)))?;
    let peak = measure::peak_rss(server.id())?;
    if let Some((uid, round)) = last {
        connection.verify_stored(&uid, &content.variant(round))?;
    }
    let size = scale.large as f64;
    let throughput = |sample: &Sample| size / 1e6 / sample.wall;
    let cpu = |sample: &Sample| sample.server_cpu * GIB / size;
    report.against(case, "MB/s (peer: md5 alone)", (&own, &md5), throughput, Target::None);
    report.against(case, "CPU s/GiB (peer: md5 alone)", (&own, &md5), cpu, Target::AtMost(target));
    report.figure(
        case,
        "client's CPU s/GiB",
        own.median(|sample| sample.client_cpu * GIB / size),
        Target::None,
    );
    report.figure(case, "peak RSS MiB", peak, Target::None);
    Ok(())
}

/// Downloads from the page cache and from the disk, compared with nginx.
pub(super) fn download(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let server = Server::start(folder)?;
    let nginx = Nginx::start(folder)?;
    let content = Content::new(scale.large);
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    let mut connection = Connection::open(server.address())?;
    let mut uids = Vec::new();
    for number in 0..FILES {
        let variant = content.variant(number);
        uids.push(connection.store(&variant)?);
        peer.push(get(&nginx.add(&format!("{number}.bin"), &variant)?));
    }
    for link in connection.download_links(&uids)? {
        own.push(get(&link.url));
    }
    let mut connection_to_nginx = Connection::open(nginx.address())?;
    for (number, (own, peer)) in own.iter().zip(&peer).enumerate() {
        connection.verify(own, &content.variant(number))?;
        connection_to_nginx.verify(peer, &content.variant(number))?;
    }
    let server_ids = [server.id()];
    let nginx_ids = nginx.ids()?;
    for cold in [false, true] {
        let (own_rounds, peer_rounds) = alternate(
            scale,
            |_| {
                if cold {
                    server.drop_page_cache()?;
                }
                get_all(&server_ids, &mut connection, &own, scale.large)
            },
            |_| {
                if cold {
                    nginx.drop_page_cache()?;
                }
                get_all(&nginx_ids, &mut connection_to_nginx, &peer, scale.large)
            },
        )?;
        let size = (FILES * scale.large) as f64;
        let both = (&own_rounds, &peer_rounds);
        let state = if cold { "cold" } else { "warm" };
        let throughput = |sample: &Sample| size / 1e6 / sample.wall;
        report.against("download", &format!("{state}, MB/s"), both, throughput, Target::AtLeast(1.0));
        let cpu = |sample: &Sample| sample.server_cpu * GIB / size;
        report.against("download", &format!("{state}, CPU s/GiB"), both, cpu, Target::AtMost(1.0));
        let cpu = |sample: &Sample| sample.client_cpu * GIB / size;
        report.against("download", &format!("{state}, client's CPU s/GiB"), both, cpu, Target::None);
    }
    Ok(())
}

fn get_all(
    server: &[u32],
    connection: &mut Connection,
    requests: &[Vec<u8>],
    length: usize,
) -> Result<Sample> {
    measure::sample(server, || requests.iter().try_for_each(|request| connection.get(request, length as u64)))
}
