//! `osproxy rescan`: processes readable files again, or waiting files with other steps.

use anyhow::bail;
use clap::Args;
use osproxy_meta::{FileToProcess, Meta, RescanFilter};
use osproxy_types::{tenant::Tenant, uid::Uid};

use super::{new_task_id, open_meta, print_line};
use crate::config::{Config, LoadedConfig};

/// Number of tasks that one transaction enqueues.
const PAGE: u64 = 500;

/// Options of `osproxy rescan`.
#[derive(Args)]
pub struct RescanArgs {
    /// Process this file only.
    #[arg(conflicts_with = "tenant")]
    uid: Option<Uid>,
    /// Process the files of this tenant only.
    #[arg(long)]
    tenant: Option<Tenant>,
    /// Process the files that wait in the state `processing`, instead of readable files. They no
    /// longer need the steps that were configured when they were uploaded, only those that are
    /// configured now. Without steps, they become readable. Without UID and tenant, the same holds
    /// for tasks about readable files.
    #[arg(long)]
    waiting: bool,
}

/// Enqueues a task for each file, or changes its task; the running services process them.
pub fn run(loaded: &LoadedConfig, options: RescanArgs) -> anyhow::Result<()> {
    if loaded.config.processing.is_empty() && !options.waiting {
        bail!("no step is configured in `processing`");
    }
    super::block_on(async {
        let meta = open_meta(&loaded.config).await?;
        let mut count = 0;
        if let Some(uid) = options.uid {
            let filter = RescanFilter { tenant: None, after: Some(Uid::from_db(uid.get() - 1)) };
            let found = page(&meta, filter, options.waiting, 1).await?;
            if found.first().is_none_or(|(found, _)| *found != uid) {
                let kind = if options.waiting { "waiting" } else { "readable" };
                bail!("there is no {kind} file {uid}");
            }
            count = process(&meta, &loaded.config, found, options.waiting).await?;
        } else {
            let mut filter = RescanFilter { tenant: options.tenant, after: None };
            loop {
                let page = page(&meta, filter.clone(), options.waiting, PAGE).await?;
                let Some((last, _)) = page.last() else { break };
                filter.after = Some(*last);
                count += process(&meta, &loaded.config, page, options.waiting).await?;
            }
            if options.waiting && filter.tenant.is_none() {
                let (required, mut after) = (loaded.config.processing_policy(), -1);
                while let Some(last) = meta.processing.change_steps(after, PAGE, required.clone()).await? {
                    after = last;
                }
            }
        }
        print_line(&format!("{count} files will be processed"));
        Ok(())
    })
}

/// Returns the uids and blobs of up to `limit` files.
async fn page(
    meta: &Meta,
    filter: RescanFilter,
    is_waiting: bool,
    limit: u64,
) -> anyhow::Result<Vec<(Uid, i64)>> {
    Ok(if is_waiting {
        meta.processing.waiting(filter, limit).await?
    } else {
        meta.processing.to_rescan(filter, limit).await?
    })
}

/// Has the configured steps judge these files. Returns their number.
async fn process(
    meta: &Meta,
    config: &Config,
    files: Vec<(Uid, i64)>,
    is_waiting: bool,
) -> anyhow::Result<usize> {
    let (count, required) = (files.len(), config.processing_policy());
    let with_task = |(uid, blob_id)| anyhow::Ok(FileToProcess { uid, blob_id, task_id: new_task_id()? });
    let files = files.into_iter().map(with_task).collect::<Result<Vec<_>, _>>()?;
    if is_waiting {
        meta.processing.judge_waiting(files, Some(required)).await?;
    } else {
        meta.processing.rescan(files, required).await?;
    }
    Ok(count)
}
