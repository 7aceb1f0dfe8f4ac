//! The master keys of the S3 API. Without configured ones, a single node keeps one in a file of its
//! data folder, outside the database.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use osproxy_core::auth::S3MasterKey;
use osproxy_meta::DatabaseLocation;

use crate::config::{Config, MISSING_MASTER_KEY, Secret, parse_master_keys};

/// File in the data folder with the master key.
const FILE: &str = "s3-master.key";
/// Length of a generated master key, in bytes.
const GENERATED_BYTES: usize = 32;

/// Returns the master keys: the configured ones, or that of the file. Returns none if none is
/// configured and the file does not exist. Blocks while it reads files.
pub fn existing(config: &Config) -> anyhow::Result<Vec<S3MasterKey>> {
    let keys = configured(config)?;
    if !keys.is_empty() {
        return Ok(keys);
    }
    let path = path(config);
    read(&path).with_context(|| in_file(&path)).map(Option::unwrap_or_default)
}

/// Like [`existing`], but creates the file if no master key exists. Fails if the database is on a
/// server, because the other nodes would not have the same file.
pub fn existing_or_new(config: &Config) -> anyhow::Result<Vec<S3MasterKey>> {
    let keys = existing(config)?;
    if !keys.is_empty() {
        return Ok(keys);
    }
    if let DatabaseLocation::Server(_) = config.database_location().map_err(anyhow::Error::msg)? {
        bail!("s3_api.master_key {MISSING_MASTER_KEY}");
    }
    let path = path(config);
    super::create_private_dir(&config.data_dir)
        .and_then(|()| create(&path))
        .map_err(anyhow::Error::from)
        .and_then(|()| read(&path))
        .with_context(|| in_file(&path))
        .map(Option::unwrap_or_default)
}

fn configured(config: &Config) -> anyhow::Result<Vec<S3MasterKey>> {
    config.s3_api.master_keys().map_err(|problem| anyhow::anyhow!("s3_api.master_key: {problem}"))
}

fn path(config: &Config) -> PathBuf {
    config.data_dir.join(FILE)
}

fn in_file(path: &Path) -> String {
    format!("cannot use the master key of the S3 API in {}", path.display())
}

#[expect(clippy::disallowed_methods, reason = "nothing is served yet")]
fn read(path: &Path) -> anyhow::Result<Option<Vec<S3MasterKey>>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(parse_master_keys(&Secret::new(text)).map_err(anyhow::Error::msg)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Creates the file, unless another process does so at the same time. The file is complete and on
/// disk before it has its name.
#[expect(clippy::disallowed_methods, reason = "nothing is served yet")]
fn create(path: &Path) -> io::Result<()> {
    let mut random = [0; GENERATED_BYTES];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", hex::encode(random))?;
    file.sync_all()?;
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
