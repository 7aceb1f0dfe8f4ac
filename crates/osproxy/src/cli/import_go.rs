//! `osproxy import-go`: imports the database of the Go program.

mod file_name;
mod plan;
mod report;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use osproxy_core::App;
use osproxy_meta::{DatabaseLocation, GoDatabase, GoTables, ImportTarget};
use osproxy_types::tenant::Tenant;
use plan::{FilePlan, ImportPlanner};
use report::ImportReport;

use crate::{
    config::{self, LoadedConfig, StoreKind},
    wiring,
};

/// Number of files per page. Every page scans the part rows of all files, so pages are large.
const PAGE: u64 = 1000;
/// Maximum number of files that are recorded in one transaction.
const BATCH: usize = 500;
/// Number of concurrent requests to the store.
const CONCURRENT_REQUESTS: usize = 16;

/// Options of `osproxy import-go`.
#[derive(Args)]
pub struct ImportGoArgs {
    /// Configuration file of the Go program, which names its database and store.
    #[arg(long = "from", value_name = "FILE")]
    go_config: PathBuf,
    /// Check all files and print what would happen, but import nothing.
    #[arg(long)]
    dry_run: bool,
    /// Tenant that will own the files.
    #[arg(long, value_name = "NAME", default_value_t)]
    tenant: Tenant,
    /// Do not compute digests of the imported content in the background. Uploads of the same
    /// content are then not deduplicated.
    #[arg(long)]
    no_verify: bool,
    /// Let the sweep delete part objects that the Go program left behind after merging.
    #[arg(long)]
    remove_leftovers: bool,
    #[command(flatten)]
    init: super::InitArgs,
}

/// Imports the files of a stopped Go program; objects stay where they are. The import can be
/// repeated.
pub fn run(loaded: &LoadedConfig, options: &ImportGoArgs) -> anyhow::Result<ExitCode> {
    let go_config = load_go_config(&options.go_config)?;
    super::block_on(async {
        let DatabaseLocation::Server(server) =
            go_config.config.database_location().map_err(anyhow::Error::msg)?
        else {
            bail!("{} configures no PostgreSQL or MySQL database", options.go_config.display());
        };
        let go = GoDatabase::open(&server).await.map_err(anyhow::Error::msg)?;
        let tables = go.tables().await?;
        if tables.is_empty() {
            bail!("the database has no tables of the Go program: neither meta_data_info nor meta_data_infos");
        }
        let kind = go_config
            .config
            .stores()
            .first()
            .copied()
            .context("the configuration of the Go program enables no store")?;
        check_store(loaded, kind)?;
        let root = loaded.config.object_folder();
        if kind == StoreKind::Local && !tokio::fs::try_exists(&root).await.unwrap_or(false) {
            bail!("there is no folder {}; set `local.root` to the Go program's `localstore`", root.display());
        }
        super::existing_or_init(&loaded.config, options.init).await?;
        let app = wiring::open_node(&loaded.config).await?;
        let target = ImportTarget {
            tenant: options.tenant.clone(),
            store: store_name(&app, kind)?,
            is_dry_run: options.dry_run,
        };
        let mut report = ImportReport::new(options.dry_run);
        for tables in tables {
            Import { app: &app, go: &go, target: &target, options }
                .import_tables(tables, &mut report)
                .await?;
        }
        Ok(report.summarize())
    })
}

/// Reads the Go program's configuration. Ignores environment variables, because they configure
/// osproxy.
fn load_go_config(path: &Path) -> anyhow::Result<LoadedConfig> {
    #[expect(clippy::disallowed_methods, reason = "before the reactor runs")]
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let read = config::read(&text, std::iter::empty(), config::ConfigOverrides::default());
    read.with_context(|| format!("{} cannot be read", path.display()))
}

/// Fails unless osproxy looks for objects where the Go program stored them: in a folder or bucket
/// for each category.
fn check_store(loaded: &LoadedConfig, kind: StoreKind) -> anyhow::Result<()> {
    let config = &loaded.config;
    if !config.stores().contains(&kind) {
        bail!(
            "the Go program stores its objects in {kind}; enable that store in the configuration of osproxy"
        );
    }
    if config.describe_store(kind).is_some_and(|store| store.bucket.is_some()) {
        bail!("the Go program uses a bucket for each category; remove `bucket` from the section of {kind}");
    }
    Ok(())
}

/// The name under which the database records the store.
fn store_name(app: &App, kind: StoreKind) -> anyhow::Result<String> {
    let is_kind = |name: &String| name.split(':').next() == Some(kind.as_str());
    app.stores.names().into_iter().find(is_kind).with_context(|| format!("there is no store {kind}"))
}

struct Import<'a> {
    app: &'a Arc<App>,
    go: &'a GoDatabase,
    target: &'a ImportTarget,
    options: &'a ImportGoArgs,
}

impl Import<'_> {
    /// Imports the files of one set of tables.
    async fn import_tables(&self, tables: GoTables, report: &mut ImportReport) -> anyhow::Result<()> {
        report.begin(tables.files, self.go.count_files(tables).await?);
        let planner = ImportPlanner::new(self.app, &self.target.store, !self.options.no_verify);
        let mut after = 0;
        loop {
            let files = self.go.files(tables, after, PAGE).await?;
            let (Some(first), Some(last)) = (files.first(), files.last()) else {
                break;
            };
            let (first, last) = (first.id, last.id);
            let parts = self.go.parts(tables, first..=last).await?;
            let uids: Vec<_> = files.iter().map(|file| file.uid).collect();
            let imported_uids = self.app.meta.import.already_imported(&uids).await?;
            let (present, files): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| {
                // A file that is imported already is planned again only to find leftover part
                // objects.
                imported_uids.contains(&file.uid) && !self.options.remove_leftovers
            });
            report.already_present(present.len());
            let mut plans = stream::iter(plan::group_parts(files, parts))
                .map(|(file, parts)| planner.plan(file, parts))
                .buffered(CONCURRENT_REQUESTS)
                .try_ready_chunks(BATCH);
            while let Some(plans) = plans.try_next().await? {
                self.record(plans, &imported_uids, report).await?;
            }
            after = last;
        }
        report::print_orphans(self.go.count_orphan_parts(tables).await?);
        report::print_tasks(&self.go.task_counts(tables).await.unwrap_or_default());
        Ok(())
    }

    /// Records files to import and reports the result for each.
    async fn record(
        &self,
        plans: Vec<FilePlan>,
        imported_uids: &HashSet<i64>,
        report: &mut ImportReport,
    ) -> anyhow::Result<()> {
        let mut files = Vec::with_capacity(plans.len());
        let mut notes = Vec::with_capacity(plans.len());
        for plan in plans {
            match plan.outcome {
                Ok(mut file) => {
                    report.leftovers(&file.leftovers);
                    if !self.options.remove_leftovers {
                        file.leftovers.clear();
                    }
                    notes.push(plan.notes);
                    files.push(file);
                }
                Err(_) if imported_uids.contains(&plan.uid) => report.already_present(1),
                Err(reason) => report.skipped(plan.uid, &reason),
            }
        }
        let kinds: Vec<_> =
            files.iter().map(|file| (file.uid, report::imported_kind(&file.content))).collect();
        let imported = self.app.meta.import.add_files(files, self.target).await?;
        let imported = imported.context("the tenant's quota is too small; see `osproxy tenant`")?;
        for (((uid, kind), imported), notes) in kinds.into_iter().zip(imported).zip(notes) {
            report.imported(uid.get(), kind, imported, &notes);
        }
        Ok(())
    }
}
