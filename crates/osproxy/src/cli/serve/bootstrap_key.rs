//! The API key that the first start makes, so that a new service can be used at once and serves nobody else.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    api_key::{ApiKey, Scopes},
    app::App,
    config::{AuthMode, Config},
    meta::KeptKey,
    tenant::Tenant,
};

/// The file in the data folder that keeps the key.
const FILE: &str = "bootstrap-key";

/// The key, and where it is kept.
pub(super) struct BootstrapKey {
    pub(super) key: ApiKey,
    pub(super) path: PathBuf,
}

/// Makes the bootstrap key, an API key with all scopes, unless everyone is served or there ever was a key.
pub(super) async fn create(app: &App, config: &Config) -> anyhow::Result<Option<BootstrapKey>> {
    if config.auth.mode == AuthMode::Open {
        return Ok(None);
    }
    let path = config.data_dir.join(FILE);
    let mut made = None;
    app.meta
        .create_first_api_key(|| {
            let key = kept(&path).with_context(|| {
                format!("cannot keep the first API key in {}; `osproxy key create` makes one", path.display())
            })?;
            let row = row(&key, app.meta.now_ms());
            made = Some(key);
            anyhow::Ok(row)
        })
        .await?;
    Ok(made.map(|key| BootstrapKey { key, path }))
}

/// Reads the key of a start that ended before the database had it, or makes one. The file is on the disk before the database
/// has the key: no other can be made then.
#[expect(clippy::disallowed_methods, reason = "nothing is served yet")]
fn kept(path: &Path) -> anyhow::Result<ApiKey> {
    match fs::read_to_string(path) {
        Ok(text) => match ApiKey::parse(text.trim_end()) {
            Some(key) => return Ok(key),
            None => bail!("the file is there and holds no key"),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let key = ApiKey::generate()?;
    let new = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", key.reveal())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().context("the file has no folder")?;
    File::open(folder)?.sync_all()?;
    Ok(key)
}

fn row(key: &ApiKey, now: i64) -> KeptKey {
    KeptKey {
        id: key.id().to_owned(),
        hash: key.hash(),
        label: "bootstrap".to_owned(),
        tenant: Tenant::default(),
        scopes: Scopes::ALL,
        max_rate: None,
        max_size: None,
        max_transfers: None,
        created_at: now,
        expires_at: None,
        revoked_at: None,
    }
}
