//! `osproxy migrate`

use crate::config::Loaded;

/// Creates the database if it is missing and updates its tables, as `serve` does at startup.
pub fn run(loaded: &Loaded) -> anyhow::Result<()> {
    super::block_on(async {
        super::migrate(&loaded.config).await?;
        super::say("the database is up to date");
        Ok(())
    })
}
