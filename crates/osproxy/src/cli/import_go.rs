//! `osproxy import-go`

mod judge;
mod name;
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

use crate::{
    app::App,
    config::{self, DatabaseLocation, Loaded, StoreKind},
    meta::{GoDatabase, GoTables, ImportInto},
    tenant::Tenant,
};
use judge::{Judge, Verdict};
use report::Report;

/// How many files are looked at in one go: for each go the parts of all files are searched through.
const PAGE: u64 = 1000;
/// How many are recorded in one transaction.
const BATCH: usize = 500;
/// How many objects are asked for at the same time.
const AT_ONCE: usize = 16;

/// What to take over, and how.
#[derive(Args)]
pub struct Options {
    /// The configuration of the Go program: which database it used, and which store.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Look at everything and say what would become of it, but take over nothing.
    #[arg(long)]
    dry_run: bool,
    /// Who owns the files from now on.
    #[arg(long, value_name = "NAME", default_value_t)]
    tenant: Tenant,
    /// Do not read all content once in the background, as is needed to recognise it when it is uploaded again.
    #[arg(long)]
    no_verify: bool,
    /// Let the sweep remove the objects of parts that the Go program left behind when it had merged them.
    #[arg(long)]
    remove_leftovers: bool,
    #[command(flatten)]
    init: super::Init,
}

/// Takes over the files of a Go program that is stopped. The objects stay where they are. Can be done again.
pub fn run(loaded: &Loaded, options: &Options) -> anyhow::Result<ExitCode> {
    let from = from(&options.from)?;
    super::block_on(async {
        let DatabaseLocation::Server(server) = from.config.database_location().map_err(anyhow::Error::msg)?
        else {
            bail!("{} names no PostgreSQL or MySQL", options.from.display());
        };
        let go = GoDatabase::open(&server).await.map_err(anyhow::Error::msg)?;
        let tables = go.tables().await?;
        if tables.is_empty() {
            bail!("the database has no tables of the Go program: neither meta_data_info nor meta_data_infos");
        }
        let kind = from.config.stores().first().copied().context("it has no store")?;
        must_have_its_store(loaded, kind)?;
        let root = loaded.config.objects_root();
        if kind == StoreKind::Local && !tokio::fs::try_exists(&root).await.unwrap_or(false) {
            bail!(
                "there is no folder {}: `local.root` is to be the Go program's `localstore`",
                root.display()
            );
        }
        super::existing_or_init(&loaded.config, options.init).await?;
        let app = App::open(&loaded.config).await?;
        let into = ImportInto {
            tenant: options.tenant.clone(),
            store: store_of(&app, kind)?,
            is_dry_run: options.dry_run,
        };
        let mut report = Report::new(options.dry_run);
        for tables in tables {
            Import { app: &app, go: &go, into: &into, options }.take(tables, &mut report).await?;
        }
        Ok(report.end())
    })
}

/// The configuration of the Go program, as it is: what the environment says is about this one.
fn from(path: &Path) -> anyhow::Result<Loaded> {
    #[expect(clippy::disallowed_methods, reason = "before the reactor runs")]
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let read = config::read(&text, std::iter::empty(), config::Overrides::default());
    read.with_context(|| format!("{} cannot be read", path.display()))
}

/// Objects are to be found where the Go program put them: in a folder, or a bucket, for each category.
fn must_have_its_store(loaded: &Loaded, kind: StoreKind) -> anyhow::Result<()> {
    let config = &loaded.config;
    if !config.stores().contains(&kind) {
        bail!(
            "the Go program keeps its objects in {kind}, which the configuration of osproxy does not enable"
        );
    }
    if config.describe_store(kind).is_some_and(|store| store.bucket.is_some()) {
        bail!(
            "the Go program has a bucket for each category: leave `bucket` of {kind} out of the configuration"
        );
    }
    Ok(())
}

/// What rows call the store.
fn store_of(app: &App, kind: StoreKind) -> anyhow::Result<String> {
    let is_it = |name: &String| name.split(':').next() == Some(kind.as_str());
    app.stores.names().into_iter().find(is_it).with_context(|| format!("there is no store {kind}"))
}

struct Import<'a> {
    app: &'a Arc<App>,
    go: &'a GoDatabase,
    into: &'a ImportInto,
    options: &'a Options,
}

impl Import<'_> {
    /// Takes over what is in some tables.
    async fn take(&self, tables: GoTables, report: &mut Report) -> anyhow::Result<()> {
        report.begin(tables.files, self.go.count(tables).await?);
        let judge = Judge::new(self.app, &self.into.store, !self.options.no_verify);
        let mut after = 0;
        loop {
            let files = self.go.files(tables, after, PAGE).await?;
            let (Some(first), Some(last)) = (files.first(), files.last()) else {
                break;
            };
            let (first, last) = (first.id, last.id);
            let parts = self.go.parts(tables, (first, last)).await?;
            let uids: Vec<_> = files.iter().map(|file| file.uid).collect();
            let settled = self.app.meta.settled(&uids).await?;
            let (here, files): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| {
                // What is here is looked at again only for what may be left of it.
                settled.contains(&file.uid) && !self.options.remove_leftovers
            });
            report.known(here.len());
            let mut verdicts = stream::iter(judge::with_parts(files, parts))
                .map(|(file, parts)| judge.judge(file, parts))
                .buffered(AT_ONCE)
                .try_ready_chunks(BATCH);
            while let Some(verdicts) = verdicts.try_next().await? {
                self.record(verdicts, &settled, report).await?;
            }
            after = last;
        }
        report::orphans(self.go.orphans(tables).await?);
        report::tasks(&self.go.tasks(tables).await.unwrap_or_default());
        Ok(())
    }

    /// Records what is to be taken over, and says what became of everything.
    async fn record(
        &self,
        verdicts: Vec<Verdict>,
        settled: &HashSet<i64>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let mut files = Vec::with_capacity(verdicts.len());
        let mut remarks = Vec::with_capacity(verdicts.len());
        for verdict in verdicts {
            match verdict.fate {
                Ok(mut file) => {
                    report.leftovers(&file.leftovers);
                    if !self.options.remove_leftovers {
                        file.leftovers.clear();
                    }
                    remarks.push(verdict.remarks);
                    files.push(file);
                }
                Err(_) if settled.contains(&verdict.uid) => report.known(1),
                Err(reason) => report.skipped(verdict.uid, &reason),
            }
        }
        let kinds: Vec<_> = files.iter().map(|file| (file.uid, report::kind_of(&file.content))).collect();
        let imported = self.app.meta.import_files(files, self.into).await?;
        let imported = imported.context("the tenant's quota has not so much left; see `osproxy tenant`")?;
        for (((uid, kind), imported), remarks) in kinds.into_iter().zip(imported).zip(remarks) {
            report.imported(uid.get(), kind, imported, &remarks);
        }
        Ok(())
    }
}
