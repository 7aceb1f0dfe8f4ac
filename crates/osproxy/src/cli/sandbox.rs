//! The hidden subcommands `sandbox` and `decode-image`, which the service runs for steps of the
//! processing pipeline.

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use osproxy_core::processing::{
    image::decode::{DecodeOptions, describe},
    sandbox::confine::{Confinement, FAILURE},
};

/// Restrictions of this process.
#[derive(Args)]
pub struct ConfinementArgs {
    /// Maximum time, in seconds.
    #[arg(long)]
    timeout_secs: u64,
    /// Maximum address space, in bytes.
    #[arg(long)]
    max_memory: u64,
    /// Run even if Landlock cannot restrict the access to files.
    #[arg(long)]
    without_landlock: bool,
    /// File or folder that may be read.
    #[arg(long)]
    readable: Vec<PathBuf>,
}

/// Arguments of `osproxy sandbox`.
#[derive(Args)]
pub struct SandboxArgs {
    #[command(flatten)]
    confinement: ConfinementArgs,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    argv: Vec<OsString>,
}

/// Arguments of `osproxy decode-image`.
#[derive(Args)]
pub struct DecodeImageArgs {
    #[command(flatten)]
    confinement: ConfinementArgs,
    /// Maximum size of the image, in bytes.
    #[arg(long)]
    max_size: u64,
    /// Maximum number of pixels of a frame.
    #[arg(long)]
    max_pixels: u64,
    /// Compute a ThumbHash.
    #[arg(long)]
    thumbhash: bool,
}

impl From<ConfinementArgs> for Confinement {
    fn from(arguments: ConfinementArgs) -> Self {
        let ConfinementArgs { timeout_secs, max_memory, without_landlock, readable } = arguments;
        let timeout = Duration::from_secs(timeout_secs);
        Self { timeout, max_memory, require_landlock: !without_landlock, readable }
    }
}

/// Restricts this process, and replaces it by the program. Returns only if that fails.
pub fn run(options: SandboxArgs) -> ExitCode {
    let SandboxArgs { confinement, argv } = options;
    fail(&Confinement::from(confinement).exec(&argv))
}

/// Restricts this process, and prints a description of the image on standard input.
pub fn decode_image(options: DecodeImageArgs) -> anyhow::Result<ExitCode> {
    let DecodeImageArgs { confinement, max_size, max_pixels, thumbhash } = options;
    if let Err(error) = Confinement::from(confinement).apply() {
        return Ok(fail(&error));
    }
    let description = describe(std::io::stdin().lock(), DecodeOptions { max_size, max_pixels, thumbhash });
    std::io::stdout().write_all(description.to_string().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints why the sandbox failed.
fn fail(error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::from(u8::try_from(FAILURE).unwrap_or(1))
}
