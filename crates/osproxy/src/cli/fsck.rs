//! `osproxy fsck`: compares metadata with the stores.

mod blobs;
mod checker;
mod keys;
mod multipart_uploads;
mod orphan_objects;
mod parts;

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::{
    config::{LoadedConfig, StoreKind},
    wiring,
};
use checker::Fsck;

/// Exit code: differences were found and all of them repaired.
const REPAIRED: u8 = 3;

/// Timeout for responses of the database, in seconds.
const DATABASE_TIMEOUT_SECS: u64 = 600;

/// Options of `osproxy fsck`.
#[derive(Args, Clone, Copy)]
pub struct FsckArgs {
    /// Also read every object and compare its digests.
    #[arg(long)]
    deep: bool,
    /// Repair what is safe to repair: reference counts, missing tasks, keys without a file, and data
    /// that belongs to no file. Content of files is never changed.
    #[arg(long)]
    repair: bool,
    /// Delete orphans: objects and multipart uploads that no metadata refers to. Do not use this if
    /// the metadata may be older than the store.
    #[arg(long, alias = "delete-strays")]
    delete_orphans: bool,
}

/// Compares metadata and stores in both directions, and prints one line for each difference.
pub fn run(loaded: &LoadedConfig, options: FsckArgs) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        super::existing_database(&loaded.config).await?;
        let folder = loaded.config.object_folder();
        if loaded.config.stores().contains(&StoreKind::Local)
            && !tokio::fs::try_exists(&folder).await.unwrap_or(false)
        {
            bail!("there is no object folder {}; check --data-dir", folder.display());
        }
        let mut config = loaded.config.clone();
        // Some statements scan whole tables, which may take longer than the configured timeout.
        config.database.timeout = DATABASE_TIMEOUT_SECS;
        let app = wiring::open_node(&config).await?;
        let mut check = Fsck::new(app, options);
        check.run().await?;
        let (differences, repaired) = (check.differences, check.repaired);
        super::print_line(&format!(
            "{} blobs, {} objects, {} bytes: {differences} differences, {repaired} repaired",
            check.blobs, check.objects, check.bytes
        ));
        Ok(match differences - repaired {
            0 if differences == 0 => ExitCode::SUCCESS,
            0 => ExitCode::from(REPAIRED),
            _ => ExitCode::from(super::DIFFERENT),
        })
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::FsckArgs;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        options: FsckArgs,
    }

    #[test]
    fn the_old_name_of_a_flag_still_works() {
        for flag in ["--delete-orphans", "--delete-strays"] {
            let line = CommandLine::try_parse_from(["fsck", flag]);
            assert!(line.is_ok_and(|line| line.options.delete_orphans), "{flag}");
        }
    }
}
