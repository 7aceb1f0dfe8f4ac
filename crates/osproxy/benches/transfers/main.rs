//! Measures the real binary on this machine: throughput, CPU time and memory, beside nginx, beside an S3 store alone, beside
//! md5 or BLAKE3 alone, and API v1 beside v0.
//!
//! `just bench` runs every case, `just bench download links` those two, and `--quick` halves the sizes, or more, and
//! the rounds. Absolute figures drift with whatever else a machine does, so each case and its peer take turns within
//! one run, and what counts is the ratio.
#![expect(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a benchmark has no reactor to block, prints its figures, and counts nothing beyond 2^52"
)]

mod cases;
mod client;
mod content;
mod measure;
mod nginx;
mod report;
mod s3;
mod server;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cases::{CASES, Scale},
    report::Report,
    server::LOG,
};

const TARGET: &str = env!("CARGO_TARGET_TMPDIR");

fn main() -> Result<()> {
    let mut quick = false;
    let mut wanted = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            // What cargo adds by itself.
            "--bench" => {}
            name if CASES.iter().any(|(known, _)| *known == name) => wanted.push(argument),
            other => {
                let known: Vec<_> = CASES.iter().map(|(name, _)| *name).collect();
                bail!("{other:?} is neither --quick nor a case; the cases are {}", known.join(", "));
            }
        }
    }
    // The cases of memory need more descriptors at once, here and in the server, than many shells allow.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let scale = Scale::new(quick);
    let mut report = Report::default();
    for (name, run) in CASES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("{name}");
            // On a real disk, which `/tmp` need not be.
            let folder = tempfile::Builder::new().prefix("transfers-").tempdir_in(TARGET)?;
            run(&scale, folder.path(), &mut report)
                .with_context(|| format!("the case {name} failed; {}", keep_log(folder.path())))?;
        }
    }
    println!("{report}");
    Ok(())
}

/// Saves the server's log from a folder that is about to go.
fn keep_log(folder: &Path) -> String {
    let kept = Path::new(TARGET).join(LOG);
    match fs::rename(folder.join(LOG), &kept) {
        Ok(()) => format!("osproxy's log is kept in {}", kept.display()),
        Err(error) => format!("osproxy's log cannot be kept: {error}"),
    }
}
