//! Runs programs that handle untrusted content: without network, with limits on time, memory and
//! output, and without access to the files and processes of the service.
//!
//! The service starts its own binary with the hidden subcommand `sandbox` (or `decode-image`). That
//! process restricts itself, see [`confine`], and then becomes the program.

pub mod confine;

use std::{
    fs::File,
    io,
    path::PathBuf,
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::TryStreamExt;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, waitid, waitpgid},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    runtime::Handle,
    task::spawn_blocking,
};

use super::{ContentStream, StepError, answer, settings::ProgramLimits};
use confine::Confinement;

/// The running binary. Also works after the file was replaced by a newer version.
const OWN_BINARY: &str = "/proc/self/exe";
/// Maximum number of bytes of standard error that are kept.
const MAX_STDERR: u64 = 4 << 10;

/// A program to run in the sandbox.
pub struct Program {
    /// What runs.
    pub target: Target,
    /// The environment. There are no other variables.
    pub environment: Vec<(&'static str, String)>,
    /// Limits.
    pub limits: ProgramLimits,
}

/// What runs in the sandbox.
pub enum Target {
    /// A program.
    Program {
        /// Absolute path and arguments.
        argv: Vec<String>,
        /// Files and folders that it may read, besides itself and the system's programs and
        /// libraries.
        readable: Vec<PathBuf>,
    },
    /// The image decoder of this binary, with these arguments.
    ImageDecoder(Vec<String>),
}

/// The standard input of a program.
pub enum Input {
    /// A pipe.
    Stream(ContentStream),
    /// A file.
    File(File),
}

/// Why a program gave no output.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started, or not get the content.
    #[error(transparent)]
    Unavailable(StepError),
    /// It failed.
    #[error("the program ended with {status}{}", shown(.stderr))]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// It was killed, because it did not end in time.
    #[error("the program did not end within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// It was killed, because it wrote too much.
    #[error("the program wrote more than {0} bytes")]
    TooMuchOutput(u64),
}

fn shown(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

impl From<RunError> for StepError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Unavailable(error) => error,
            other => Self::failed(other.to_string()),
        }
    }
}

impl Program {
    /// Runs the program with `input`, and returns what it wrote to standard output. When this future
    /// ends or is dropped, the program and all its descendants are dead.
    pub async fn run(self, input: Input) -> Result<Vec<u8>, RunError> {
        let (limits, mut command) = (self.limits, self.command());
        let mut stream = None;
        match input {
            Input::Stream(content) => {
                stream = Some(content);
                command.stdin(Stdio::piped());
            }
            Input::File(file) => {
                command.stdin(file);
            }
        }
        let child = command.spawn().map_err(|error| unavailable("cannot start the sandbox", error))?;
        let mut group = Group::of(child)?;
        let ended = async {
            let written = communicate(&mut group.first, stream, limits.max_output).await?;
            group.first_ended().await?;
            Ok(written)
        };
        let ended = tokio::time::timeout(limits.timeout, ended).await;
        let ended = ended.unwrap_or(Err(RunError::TimedOut(limits.timeout)));
        let status = group.end().await;
        let Written { output, stderr } = ended?;
        let status = status.map_err(|error| unavailable("cannot wait for the program", error))?;
        match status.code() {
            Some(0) => Ok(output),
            Some(confine::FAILURE) => Err(RunError::Unavailable(StepError::unavailable_msg(stderr))),
            _ => Err(RunError::Exited { status, stderr }),
        }
    }

    fn command(self) -> Command {
        let Self { target, environment, limits } = self;
        let mut command = Command::new(OWN_BINARY);
        let confinement = |readable: Vec<PathBuf>| Confinement {
            timeout: limits.timeout,
            max_memory: limits.max_memory,
            require_landlock: limits.require_landlock,
            readable,
        };
        match target {
            Target::Program { argv, readable } => {
                command.arg("sandbox").args(confinement(readable).arguments()).arg("--").args(argv);
            }
            Target::ImageDecoder(arguments) => {
                command.arg("decode-image").args(confinement(Vec::new()).arguments()).args(arguments);
            }
        }
        let clean = |(name, value): (&'static str, String)| (name, value.replace('\0', ""));
        command
            .env_clear()
            .envs(environment.into_iter().map(clean))
            .current_dir("/")
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

fn unavailable(what: &str, error: io::Error) -> RunError {
    RunError::Unavailable(StepError::unavailable(what, error))
}

/// The process group of a program. The sandbox does not let processes leave it. When it is dropped,
/// its processes are killed and reaped.
struct Group {
    id: Pid,
    /// `None` once all processes are reaped.
    first: Option<Child>,
}

impl Group {
    fn of(first: Child) -> Result<Self, RunError> {
        let id = first.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let gone = || RunError::Unavailable(StepError::unavailable_msg("the sandbox has no process"));
        Ok(Self { id: id.ok_or_else(gone)?, first: Some(first) })
    }

    /// Waits until the first process has ended, and does not reap it.
    async fn first_ended(&self) -> Result<(), RunError> {
        let first = self.id;
        let wait =
            move || retry(|| waitid(WaitId::Pid(first), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        let waited = spawn_blocking(wait).await.map_err(io::Error::from);
        let waited = waited.and_then(|waited| waited.map_err(io::Error::from));
        waited.map(drop).map_err(|error| unavailable("cannot wait for the program", error))
    }

    /// Kills and reaps all processes. Returns how the first one ended.
    async fn end(mut self) -> io::Result<ExitStatus> {
        // Before the first process is reaped: until then, no other group can have this number.
        self.kill();
        let status = match &mut self.first {
            Some(first) => first.wait().await,
            None => Err(Errno::CHILD.into()),
        };
        self.first = None;
        let group = self.id;
        spawn_blocking(move || reap(group)).await?;
        status
    }

    fn kill(&self) {
        // The error is ignored: the processes may have ended.
        let _ = kill_process_group(self.id, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(first) = self.first.take() else {
            return;
        };
        self.kill();
        if let Ok(runtime) = Handle::try_current() {
            let group = self.id;
            drop(runtime.spawn_blocking(move || {
                // Dropping it kills the process once more, and so it must not be reaped yet.
                drop(first);
                reap(group);
            }));
        }
    }
}

/// Reaps the killed processes of a group that are children of this process. Those are its first
/// process and, if orphans become children of this process, all others: in a container, the service
/// often has the process id 1.
fn reap(group: Pid) {
    while retry(|| waitpgid(group, WaitOptions::empty())).is_ok() {}
}

/// Repeats a system call that a signal interrupts.
fn retry<T>(call: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// What a program has written.
struct Written {
    output: Vec<u8>,
    /// The beginning of standard error.
    stderr: String,
}

/// Sends the content to a process, and reads what it writes until it closes its output.
async fn communicate(
    child: &mut Option<Child>,
    content: Option<ContentStream>,
    max_output: u64,
) -> Result<Written, RunError> {
    let (stdin, stdout, stderr) = match child {
        Some(child) => (child.stdin.take(), child.stdout.take(), child.stderr.take()),
        None => (None, None, None),
    };
    let mut feeding = pin!(async {
        match (content, stdin) {
            (Some(content), Some(stdin)) => feed(stdin, content).await,
            _ => Ok(()),
        }
    });
    let mut output = pin!(async {
        let (output, error) =
            tokio::join!(read_limited(stdout, max_output), read_beginning(stderr, MAX_STDERR));
        Ok::<_, io::Error>((output?, error?))
    });
    let mut is_fed = false;
    let (output, stderr) = loop {
        tokio::select! {
            fed = &mut feeding, if !is_fed => {
                fed?;
                is_fed = true;
            }
            read = &mut output => break read.map_err(|error| unavailable("cannot read the output", error))?,
        }
    };
    if output.len() as u64 > max_output {
        return Err(RunError::TooMuchOutput(max_output));
    }
    Ok(Written { output, stderr: answer::shorten(&String::from_utf8_lossy(&stderr), "") })
}

/// Sends content until it or the process ends.
async fn feed(mut stdin: ChildStdin, mut content: ContentStream) -> Result<(), RunError> {
    while let Some(bytes) =
        content.try_next().await.map_err(|error| RunError::Unavailable(StepError::from(error)))?
    {
        if stdin.write_all(&bytes).await.is_err() {
            // The process takes no more, and may still give an answer.
            return Ok(());
        }
    }
    let _ = stdin.shutdown().await;
    Ok(())
}

/// Reads a pipe to its end, and returns the first `max` bytes. A process that writes more must not be
/// stopped by a closed pipe.
async fn read_beginning(pipe: Option<impl AsyncRead + Unpin>, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(max).read_to_end(&mut bytes).await?;
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// Reads at most `max` bytes and one more, which tells that there are too many.
async fn read_limited(pipe: Option<impl AsyncRead + Unpin>, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(max.saturating_add(1)).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}
