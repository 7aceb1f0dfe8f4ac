//! `osproxy migrate`: creates the database file and updates the tables.

use crate::config::LoadedConfig;

/// Creates the database file if it is missing and updates the tables, as `serve` does at startup.
pub fn run(loaded: &LoadedConfig) -> anyhow::Result<()> {
    super::block_on(async {
        super::migrate(&loaded.config).await?;
        super::print_line("the database is up to date");
        Ok(())
    })
}
