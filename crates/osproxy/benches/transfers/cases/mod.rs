//! Benchmark cases. Each case starts its own servers in its own folder.

mod databases;
mod footprint;
mod forwarding;
mod grpc;
mod large;
mod overload;
mod parts;
mod peers;
mod refusals;
mod s3_api;
mod small;
mod stored;
mod stores;
mod v1;

use std::path::Path;

use anyhow::Result;

use crate::{
    content::Variant,
    measure::{self, Rounds, Sample},
    report::Report,
};

const GIB: f64 = (1_u64 << 30) as f64;

/// The cases that need other programs. They run only if they are named.
pub(crate) const PEERS: [&str; 2] = ["peers", "s3-peers"];

type Case = fn(&Scale, &Path, &mut Report) -> Result<()>;

/// Every case by name, in the order of execution.
pub(crate) const CASES: [(&str, Case); 28] = [
    ("upload-raw", large::upload_raw),
    ("upload-form", large::upload_form),
    ("parts-1m", parts::of_1_mib),
    ("parts-8m", parts::of_8_mib),
    ("v1-upload", v1::upload),
    ("v1-parts-8m", v1::parts),
    ("download", large::download),
    ("small-downloads", small::downloads),
    ("v1-small-downloads", v1::small_downloads),
    ("links", small::links),
    ("v1-links", v1::links),
    ("small-uploads", small::uploads),
    ("refusals", refusals::refusals),
    ("stored", stored::stored),
    ("databases", databases::small_files),
    ("s3-upload", stores::uploads),
    ("s3-download", stores::downloads),
    ("forwarding", forwarding::forwarding),
    ("grpc-upload", grpc::upload),
    ("grpc-download", grpc::download),
    ("grpc-messages", grpc::messages),
    ("memory", footprint::memory),
    ("parts-memory", parts::memory),
    ("start", footprint::start),
    ("overload", overload::overload),
    ("probes", overload::probes),
    ("peers", peers::peers),
    ("s3-peers", s3_api::peers),
];

/// The amount of work.
pub(crate) struct Scale {
    quick: bool,
    /// Number of measured rounds, in which a case and its peer take turns.
    rounds: usize,
    /// Size of a large file, in bytes.
    large: usize,
}

impl Scale {
    pub(crate) fn new(quick: bool) -> Self {
        let (rounds, large) = if quick { (3, 128 << 20) } else { (7, 256 << 20) };
        Self { quick, rounds, large }
    }

    fn halved(&self, count: usize) -> usize {
        if self.quick { count / 2 } else { count }
    }
}

/// Runs a case and its peer in turn. The first round is a warm-up and does not count.
fn alternate(
    scale: &Scale,
    mut own: impl FnMut(usize) -> Result<Sample>,
    mut peer: impl FnMut(usize) -> Result<Sample>,
) -> Result<(Rounds, Rounds)> {
    let (mut own_rounds, mut peer_rounds) = (Rounds::default(), Rounds::default());
    for round in 0..=scale.rounds {
        let (own, peer) = (own(round)?, peer(round)?);
        eprintln!("  round {round}: osproxy {}, peer {}", line(&own), line(&peer));
        if round > 0 {
            own_rounds.push(own);
            peer_rounds.push(peer);
        }
    }
    Ok((own_rounds, peer_rounds))
}

/// Runs several variants of a case in turn. The first round is a warm-up and does not count. `run`
/// gets an index into `names` and the round.
fn alternate_all<const N: usize>(
    scale: &Scale,
    names: [&str; N],
    mut run: impl FnMut(usize, usize) -> Result<Sample>,
) -> Result<[Rounds; N]> {
    let mut all = std::array::from_fn(|_| Rounds::default());
    for round in 0..=scale.rounds {
        for (which, (rounds, name)) in all.iter_mut().zip(names).enumerate() {
            let sample = run(which, round)?;
            eprintln!("  round {round}: {name} {}", line(&sample));
            if round > 0 {
                rounds.push(sample);
            }
        }
    }
    Ok(all)
}

/// Runs a case without a peer. The first round is a warm-up and does not count.
fn without_peer(scale: &Scale, mut own: impl FnMut(usize) -> Result<Sample>) -> Result<Rounds> {
    let mut rounds = Rounds::default();
    for round in 0..=scale.rounds {
        let sample = own(round)?;
        eprintln!("  round {round}: osproxy {}", line(&sample));
        if round > 0 {
            rounds.push(sample);
        }
    }
    Ok(rounds)
}

/// Hashes `content` with md5, as the peer of uploads.
fn md5_alone(content: &Variant<'_>) -> Result<Sample> {
    let sample = measure::sample(&[], || {
        std::hint::black_box(content.md5());
        Ok(())
    })?;
    Ok(Sample { server_cpu: sample.client_cpu, client_cpu: 0.0, ..sample })
}

/// Hashes `content` with BLAKE3.
fn blake3_alone(content: &Variant<'_>) -> Result<Sample> {
    let sample = measure::sample(&[], || {
        std::hint::black_box(content.blake3());
        Ok(())
    })?;
    Ok(Sample { server_cpu: sample.client_cpu, client_cpu: 0.0, ..sample })
}

fn line(sample: &Sample) -> String {
    let Sample { wall, server_cpu, client_cpu } = sample;
    format!("{wall:.3} s, CPU {server_cpu:.2} s, client's CPU {client_cpu:.2} s")
}
