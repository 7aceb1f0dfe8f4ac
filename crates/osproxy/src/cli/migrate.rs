//! `osproxy migrate`

use crate::config::Loaded;

/// Creates the database if there is none, and brings its tables up to date, as `serve` does when it starts.
pub fn run(loaded: &Loaded) -> anyhow::Result<()> {
    super::block_on(async {
        super::migrate(&loaded.config).await?;
        super::say("the database is up to date");
        Ok(())
    })
}
