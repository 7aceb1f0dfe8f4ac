//! `osproxy migrate`

use crate::{
    config::Loaded,
    meta::{self, Meta},
};

/// Brings the tables of the database up to date, as the service does when it starts.
pub fn run(loaded: &Loaded) -> anyhow::Result<()> {
    super::block_on(async {
        let location = super::existing(&loaded.config).await?;
        meta::migrate(&location)
            .await
            .map_err(|error| anyhow::Error::msg(Meta::explain(&location, &error)))?;
        super::say("the database is up to date");
        Ok(())
    })
}
