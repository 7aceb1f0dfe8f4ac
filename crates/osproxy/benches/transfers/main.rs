//! Measures throughput, CPU time and memory of the real binary on this machine. The peers are
//! nginx, an S3 store without osproxy, hashing alone (md5, BLAKE3), and API v0 for API v1.
//!
//! `just bench` runs every case but `peers`, and `just bench download links` only these two.
//! `just bench-peers` compares osproxy with other programs. `--quick` at least halves the sizes and
//! the rounds. Absolute figures depend on the other load of the machine; ratios are comparable,
//! because each case and its peer take turns within one run.
#![expect(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a benchmark has no async runtime to block, prints its figures, and counts nothing beyond 2^52"
)]

mod cases;
mod client;
mod content;
mod measure;
mod nginx;
mod peers;
mod report;
mod s3;
mod server;
mod shares;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cases::{CASES, PEERS, Scale},
    report::Report,
    server::LOG,
};

const TARGET: &str = env!("CARGO_TARGET_TMPDIR");

fn main() -> Result<()> {
    let mut quick = false;
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            peers::ANSWER => return peers::answer(arguments.next().context("no port")?.parse()?),
            // Added by cargo.
            "--bench" => {}
            name if CASES.iter().any(|(known, _)| *known == name) => wanted.push(argument),
            other => {
                let known: Vec<_> = CASES.iter().map(|(name, _)| *name).collect();
                bail!("{other:?} is neither --quick nor a case; cases: {}", known.join(", "));
            }
        }
    }
    // The memory cases need more descriptors, here and in the server, than many shells allow.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let scale = Scale::new(quick);
    let mut report = Report::default();
    for (name, run) in CASES {
        if wanted.iter().any(|wanted| wanted == name) || wanted.is_empty() && !PEERS.contains(&name) {
            eprintln!("{name}");
            // On a real disk: `/tmp` may be in memory.
            let parent = std::env::var_os("OSPROXY_BENCH_FOLDER").unwrap_or_else(|| TARGET.into());
            let folder = tempfile::Builder::new().prefix("transfers-").tempdir_in(parent)?;
            run(&scale, folder.path(), &mut report)
                .with_context(|| format!("the case {name} failed; {}", keep_log(folder.path())))?;
        }
    }
    println!("{report}");
    Ok(())
}

/// Saves the server's log from a folder that is about to be removed.
fn keep_log(folder: &Path) -> String {
    let kept = Path::new(TARGET).join(LOG);
    match fs::copy(folder.join(LOG), &kept) {
        Ok(_) => format!("the log of osproxy is kept in {}", kept.display()),
        Err(error) => format!("the log of osproxy cannot be kept: {error}"),
    }
}
