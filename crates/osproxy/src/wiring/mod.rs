//! Builds a node from the configuration.

pub mod http;
pub mod s3_master_key;
mod settings;
mod store_diagnosis;
pub mod stores;

pub use settings::{database_options, limits, link_keys, node_settings};
pub use store_diagnosis::explain_store_error;

use std::{os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use osproxy_core::{
    App,
    processing::sandbox::confine::has_landlock,
    startup::{Startup, StartupError, context},
};

use crate::config::Config;

/// Opens the database and the stores, and starts the node. The error names what cannot be used, and
/// why.
pub async fn open_node(config: &Config) -> Result<Arc<App>, StartupError> {
    let data_dir = &config.data_dir;
    create_private_dir(data_dir)
        .map_err(context(format!("cannot use the data folder {}", data_dir.display())))?;
    // This must come first: on a single node, it fails if another process uses the database. In
    // that case, the folders of the stores must not be touched.
    let startup = Startup::lock(node_settings(config)?).await?;
    let stores = stores::open(config, &startup.settings().database, startup.buffers()).await?;
    startup.open(stores).await
}

/// Why a step with a program cannot be protected, and what to do.
pub const LANDLOCK_ADVICE: &str = "this system has no Landlock (Linux 5.13 or later; enabled at boot, and not \
                                   forbidden by the container); set `require_landlock: false` to accept this";

/// Fails if steps of processing need Landlock and this system does not have it. Logs a warning if
/// that is accepted.
pub fn check_sandbox(config: &Config) -> Result<(), StartupError> {
    let (refused, accepted) = (config.steps_without_landlock(false), config.steps_without_landlock(true));
    if (refused.is_empty() && accepted.is_empty()) || has_landlock() {
        return Ok(());
    }
    for step in accepted {
        tracing::warn!("{step}: this system has no Landlock");
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(StartupError::msg(format!("{}: {LANDLOCK_ADVICE}", refused.join("; "))))
}

/// Creates a folder, and its parents, if they are missing. Only the owner can access new folders,
/// because they will contain secrets, such as the link keys.
pub fn create_private_dir(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
