//! `osproxy rescan`: processes readable files again.

use anyhow::bail;
use clap::Args;
use osproxy_meta::RescanFilter;
use osproxy_types::{tenant::Tenant, uid::Uid};

use super::{new_task_id, open_meta, print_line};
use crate::config::LoadedConfig;

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
}

/// Enqueues a task for each readable file; the running services process them.
pub fn run(loaded: &LoadedConfig, options: RescanArgs) -> anyhow::Result<()> {
    if loaded.config.processing.is_empty() {
        bail!("no step is configured in `processing`");
    }
    super::block_on(async {
        let meta = open_meta(&loaded.config).await?;
        let with_task = |(uid, blob_id)| anyhow::Ok((uid, blob_id, new_task_id()?));
        let mut count = 0;
        if let Some(uid) = options.uid {
            let after = Some(Uid::from_db(uid.get() - 1));
            let filter = RescanFilter { tenant: None, after };
            let found = meta.processing.to_rescan(filter, 1).await?;
            let Some(file) = found.into_iter().find(|(found, _)| *found == uid) else {
                bail!("there is no readable file {uid}");
            };
            meta.processing.rescan(vec![with_task(file)?]).await?;
            count = 1;
        } else {
            let mut filter = RescanFilter { tenant: options.tenant, after: None };
            loop {
                let page = meta.processing.to_rescan(filter.clone(), PAGE).await?;
                let Some((last, _)) = page.last() else { break };
                filter.after = Some(*last);
                count += page.len();
                meta.processing.rescan(page.into_iter().map(with_task).collect::<Result<_, _>>()?).await?;
            }
        }
        print_line(&format!("{count} files will be processed"));
        Ok(())
    })
}
