//! The real binary as a child process.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IoSliceMut},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use osproxy_storage::{Category, Key};
use rustix::{
    fs::Advice,
    io::{Errno, ReadWriteFlags},
    process::{Pid, Signal, kill_process},
};
use serde::Deserialize;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_osproxy");

/// Log file of the server, in the folder of the case.
pub(crate) const LOG: &str = "osproxy.log";

/// Maximum number of attempts to drop a file from the page cache.
const ATTEMPTS: usize = 100;
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Poll interval while waiting for a merge or a deletion.
const LOOK: Duration = Duration::from_millis(2);
/// Timeout of a merge or a deletion.
const PATIENCE: Duration = Duration::from_mins(5);

/// A child process that is terminated and waited for on drop.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Errors are ignored: the process may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A running osproxy, which is stopped on drop.
pub(crate) struct Server {
    process: Process,
    address: SocketAddr,
    data: PathBuf,
    /// Time from spawning until the service printed that it is ready.
    pub(crate) startup_time: Duration,
}

impl Server {
    /// Starts a server with default settings, and with its data and log under `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, &[])
    }

    /// Like [`start`](Self::start), with settings: names and values of environment variables,
    /// without the prefix `OSPROXY__`.
    pub(crate) fn start_with(folder: &Path, settings: &[(String, String)]) -> Result<Self> {
        let data = folder.join("data");
        let log = File::options().create(true).append(true).open(folder.join(LOG))?;
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        // The environment of the user is cleared: its settings would change the results.
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // Clients send no key.
        command.env("OSPROXY__AUTH__MODE", "open");
        command.envs(settings.iter().map(|(name, value)| (format!("OSPROXY__{name}"), value)));
        let start = Instant::now();
        let mut process = Process(command.spawn().context("cannot start osproxy")?);
        let output = process.0.stdout.take().context("osproxy has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let took = start.elapsed();
        let Some((_, address)) = line.trim().split_once("http://") else {
            bail!("osproxy did not become ready: {}", fs::read_to_string(folder.join(LOG))?);
        };
        // The first start also prints an API key.
        let address = address.split(' ').next().unwrap_or_default().parse()?;
        Ok(Self { process, address, data, startup_time: took })
    }

    /// Creates a key of the S3 API. Returns its id and its secret.
    pub(crate) fn create_s3_key(&self) -> Result<(String, String)> {
        #[derive(Deserialize)]
        struct Created {
            access_key_id: String,
            secret_access_key: String,
        }

        let mut command = Command::new(BINARY);
        command.args(["s3-key", "create", "--json", "--data-dir"]).arg(&self.data).env_clear();
        let output = command.output()?;
        ensure!(output.status.success(), "no key: {}", String::from_utf8_lossy(&output.stderr));
        let Created { access_key_id, secret_access_key } = serde_json::from_slice(&output.stdout)?;
        Ok((access_key_id, secret_access_key))
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.0.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops the content of every stored file from the page cache.
    pub(crate) fn drop_page_cache(&self) -> Result<()> {
        drop_page_cache(&self.data.join("objects"))
    }

    /// Waits until the parts of a file are merged and removed, and the server writes nothing. The
    /// name of the file must end with `.bin`.
    pub(crate) fn wait_until_merged(&self, uid: &str) -> Result<()> {
        let start = Instant::now();
        while !self.is_whole(uid)? {
            ensure!(start.elapsed() < PATIENCE, "timed out waiting for the merge of {uid}");
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until the object of a deleted file is removed. The name of the file must end with
    /// `.bin`.
    pub(crate) fn wait_until_gone(&self, uid: &str) -> Result<()> {
        let (start, object) = (Instant::now(), self.object(uid)?);
        while object.try_exists()? {
            ensure!(start.elapsed() < PATIENCE, "timed out waiting for the deletion of {uid}");
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn is_whole(&self, uid: &str) -> Result<bool> {
        let object = self.object(uid)?;
        let folder = object.parent().context("the object has no folder")?;
        // The cheapest check, which is also the last to become true, comes first.
        Ok(object.try_exists()?
            && !any_name(folder, |name| name.strip_prefix(uid).is_some_and(|rest| rest.starts_with('_')))?
            && !any_name(&self.data.join("objects/.tmp"), |name| name != "lock")?)
    }

    /// The path of a file's object. The name of the file must end with `.bin`.
    fn object(&self, uid: &str) -> Result<PathBuf> {
        let uid = uid.parse()?;
        let key = Key::whole(Category::Unknown, uid, Some("bin")).in_shard(uid);
        Ok(self.data.join("objects").join(key.as_str()))
    }
}

fn any_name(folder: &Path, what: impl Fn(&str) -> bool) -> Result<bool> {
    for entry in fs::read_dir(folder)? {
        if entry?.file_name().to_str().is_some_and(&what) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Drops the files under `folder` from the page cache, and checks that they are gone.
pub(crate) fn drop_page_cache(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, meta) = (entry.path(), entry.metadata()?);
        if meta.is_dir() {
            drop_page_cache(&path)?;
        } else if meta.len() > 0 {
            drop_file_from_page_cache(&path, meta.len()).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn drop_file_from_page_cache(path: &Path, size: u64) -> Result<()> {
    let file = File::open(path)?;
    // Dirty pages would stay in the cache.
    file.sync_all()?;
    // The check below must not make the kernel read ahead.
    rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
    for _ in 0..ATTEMPTS {
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        let mut byte = [0];
        let mut target = [IoSliceMut::new(&mut byte)];
        match rustix::io::preadv2(&file, &mut target, size / 2, ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN) => return Ok(()),
            // Pages that are being read or written stay for now.
            _ => thread::sleep(PAUSE),
        }
    }
    bail!("the kernel keeps the file in the page cache")
}
