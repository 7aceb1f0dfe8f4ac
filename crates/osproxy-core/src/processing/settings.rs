//! Settings of the pipeline.

use std::{path::PathBuf, time::Duration};

/// Settings of the pipeline: its steps, in the order in which they run.
#[derive(Clone, Debug, Default)]
pub struct ProcessingSettings {
    /// The steps.
    pub steps: Vec<StepSettings>,
}

/// Settings of a step.
#[derive(Clone, Debug)]
pub struct StepSettings {
    /// Whether files become readable only when this step has accepted them.
    pub blocking: bool,
    /// MIME types and families of the files that the step is for. If empty, it is for all files.
    pub types: Vec<String>,
    /// Maximum time of a run.
    pub timeout: Duration,
    /// What happens to a file about which the step cannot give a verdict.
    pub on_error: OnError,
    /// The kind of the step, and the settings of this kind.
    pub kind: StepKind,
}

/// What happens to a file about which a step cannot give a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The file waits until the step gives a verdict.
    Hold,
    /// The file passes.
    Pass,
    /// The file is rejected.
    Reject,
}

/// The kind of a step, and the settings of this kind.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// Runs a program.
    Command(CommandSettings),
    /// Decodes images.
    Image(ImageSettings),
    /// Runs ffprobe.
    Media(MediaSettings),
    /// Asks clamd.
    Scan(ScanSettings),
    /// Compares the content with its name and claimed type.
    Type(TypeSettings),
    /// Asks an HTTP service.
    Webhook(Box<WebhookSettings>),
}

/// Settings of a program that runs in the sandbox.
#[derive(Clone, Debug)]
pub struct CommandSettings {
    /// The program, an absolute path, and its arguments.
    pub argv: Vec<String>,
    /// Files and folders that the program may read, besides itself and the system's programs and
    /// libraries.
    pub readable: Vec<PathBuf>,
    /// Limits of the program.
    pub limits: ProgramLimits,
}

/// Limits of a program in the sandbox.
#[derive(Clone, Copy, Debug)]
pub struct ProgramLimits {
    /// Maximum time, after which the program is killed.
    pub timeout: Duration,
    /// Maximum address space of each process, in bytes.
    pub max_memory: u64,
    /// Maximum size of its output, in bytes.
    pub max_output: u64,
    /// Whether the program must not run where Landlock cannot restrict its access to files.
    pub require_landlock: bool,
}

/// Settings of the image step.
#[derive(Clone, Copy, Debug)]
pub struct ImageSettings {
    /// Limits of the decoder's process.
    pub limits: ProgramLimits,
    /// Larger files are not decoded, in bytes.
    pub max_size: u64,
    /// Images with more pixels in one frame are not decoded.
    pub max_pixels: u64,
    /// Whether to compute a ThumbHash.
    pub thumbhash: bool,
    /// Whether files that are no valid images, or exceed the limits, are rejected.
    pub reject_damaged: bool,
}

/// Settings of the media step.
#[derive(Clone, Debug)]
pub struct MediaSettings {
    /// Path of `ffprobe`.
    pub ffprobe: PathBuf,
    /// Limits of the process.
    pub limits: ProgramLimits,
    /// How many bytes of the beginning and of the end of a file ffprobe sees.
    pub probe_size: u64,
    /// Whether files that ffprobe does not recognise are rejected.
    pub reject_damaged: bool,
}

/// Settings of the scan step.
#[derive(Clone, Debug)]
pub struct ScanSettings {
    /// Where clamd listens.
    pub address: ScannerAddress,
    /// Maximum time of a scan.
    pub timeout: Duration,
    /// Largest content that is scanned, in bytes. Must not exceed clamd's `StreamMaxLength`.
    pub max_size: u64,
    /// What happens to larger content.
    pub too_large: TooLarge,
    /// Whether infected files are rejected instead of quarantined.
    pub reject_infected: bool,
}

/// Where clamd listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScannerAddress {
    /// Host and port.
    Tcp(String),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

/// What happens to content that is too large to be scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLarge {
    /// It passes without a scan.
    Pass,
    /// It is rejected.
    Reject,
}

/// Settings of the type step.
#[derive(Clone, Debug, Default)]
pub struct TypeSettings {
    /// MIME types and families that are accepted. If empty, all are.
    pub allow: Vec<String>,
    /// MIME types and families that are rejected.
    pub deny: Vec<String>,
    /// Whether files are rejected whose content is of another type than their name or claim says.
    pub reject_mismatch: bool,
}

/// Settings of the webhook step.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// The URL that is asked.
    pub url: String,
    /// URL at which the service that is asked reaches osproxy.
    pub base_url: String,
    /// Value of the header `Authorization`.
    pub authorization: Option<String>,
    /// Maximum time until the answer.
    pub timeout: Duration,
    /// Lifetime of the link to the content.
    pub link_lifetime: Duration,
}
