//! `osproxy fsck`

mod check;
mod uploads;

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::{
    app::App,
    config::{Loaded, StoreKind},
};
use check::Check;

/// Exit code when there were differences, all of them repaired.
const REPAIRED: u8 = 3;

/// How long the database may take for an answer, in seconds.
const PATIENCE: u64 = 600;

/// How far to go.
#[derive(Args, Clone, Copy)]
pub struct Options {
    /// Read every object and compare its digests too.
    #[arg(long)]
    deep: bool,
    /// Repair what is safe to repair: counts, and whatever no file names. No content of a file is touched.
    #[arg(long)]
    repair: bool,
    /// Delete objects that nothing in the metadata names. Do not, if the metadata may be older than the store.
    #[arg(long)]
    delete_strays: bool,
}

/// Compares metadata and store both ways, and says every difference in a line of its own.
pub fn run(loaded: &Loaded, options: Options) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        super::existing(&loaded.config).await?;
        let objects = loaded.config.objects_root();
        if loaded.config.stores().contains(&StoreKind::Local)
            && !tokio::fs::try_exists(&objects).await.unwrap_or(false)
        {
            bail!("there is no object folder {}; check --data-dir", objects.display());
        }
        let mut config = loaded.config.clone();
        // Whole tables are looked through.
        config.database.timeout = PATIENCE;
        let app = App::open(&config).await?;
        let mut check = Check::new(app, options);
        check.run().await?;
        let (found, repaired) = (check.found, check.repaired);
        super::say(&format!(
            "{} blobs, {} objects, {} bytes: {found} differences, {repaired} repaired",
            check.blobs, check.objects, check.bytes
        ));
        Ok(match found - repaired {
            0 if found == 0 => ExitCode::SUCCESS,
            0 => ExitCode::from(REPAIRED),
            _ => ExitCode::from(super::DIFFERENT),
        })
    })
}
