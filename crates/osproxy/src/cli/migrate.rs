//! `osproxy migrate`: creates or updates the database.

use crate::config::LoadedConfig;

/// Creates the database if it is missing and updates its tables, as `serve` does at startup.
pub fn run(loaded: &LoadedConfig) -> anyhow::Result<()> {
    super::block_on(async {
        super::migrate(&loaded.config).await?;
        super::print_line("the database is up to date");
        Ok(())
    })
}
