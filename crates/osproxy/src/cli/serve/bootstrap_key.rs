//! The bootstrap key: an API key that is created at the first start, so that a new service can be
//! used immediately, but only with this key.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use osproxy_core::{App, auth::ApiKey};
use osproxy_meta::ApiKeyRecord;
use osproxy_types::{scope::Scopes, tenant::Tenant};

use crate::config::{AuthMode, Config};

/// File in the data folder that stores the key.
const FILE: &str = "bootstrap-key";

/// The key and the path of its file.
pub(super) struct BootstrapKey {
    pub(super) key: ApiKey,
    pub(super) path: PathBuf,
}

/// Creates the bootstrap key, an API key with all scopes. Returns `None` if `auth.mode` is `open`
/// or if the database has an API key, even an expired or revoked one.
pub(super) async fn create(app: &App, config: &Config) -> anyhow::Result<Option<BootstrapKey>> {
    if config.auth.mode == AuthMode::Open {
        return Ok(None);
    }
    let path = config.data_dir.join(FILE);
    let mut created = None;
    app.meta
        .access
        .create_first_api_key(|| {
            let key = load_or_create(&path).with_context(|| {
                format!(
                    "cannot read or create the bootstrap key {}; create a key with `osproxy key create` instead",
                    path.display()
                )
            })?;
            let row = to_row(&key, app.meta.now_ms());
            created = Some(key);
            anyhow::Ok(row)
        })
        .await?;
    Ok(created.map(|key| BootstrapKey { key, path }))
}

/// Reads the key that an earlier, interrupted start stored, or creates a key. The file is synced to
/// disk before the key is recorded in the database: once a key is recorded, no bootstrap key is
/// created again.
#[expect(clippy::disallowed_methods, reason = "nothing is served yet")]
fn load_or_create(path: &Path) -> anyhow::Result<ApiKey> {
    match fs::read_to_string(path) {
        Ok(text) => match ApiKey::parse(text.trim_end()) {
            Some(key) => return Ok(key),
            None => bail!("the file exists but contains no key"),
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
    let folder = path.parent().context("the path has no parent folder")?;
    File::open(folder)?.sync_all()?;
    Ok(key)
}

fn to_row(key: &ApiKey, now: i64) -> ApiKeyRecord {
    ApiKeyRecord {
        id: key.id().to_owned(),
        hash: key.secret_hash(),
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
