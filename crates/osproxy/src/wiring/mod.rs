//! Builds a node from the configuration.

pub mod http;
mod settings;
mod store_diagnosis;
pub mod stores;

pub use settings::{database_options, limits, link_keys, node_settings};
pub use store_diagnosis::explain_store_error;

use std::{os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use osproxy_core::{
    App,
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

/// Creates a folder, and its parents, if they are missing. Only the owner can access new folders,
/// because they will contain secrets, such as the link keys.
pub fn create_private_dir(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
