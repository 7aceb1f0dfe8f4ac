//! Make a file of the content of another one, without moving a byte.

use std::sync::Arc;

use super::{Tenant, closed, describe_file::describe_file, name_of, unknown_uid};
use crate::{
    Error, Result,
    app::{App, check_metadata},
    meta::{Copied, FileRecord, FileState, Metadata},
    uid::Uid,
};

/// How often content that moves meanwhile is followed.
const ROUNDS: usize = 4;

/// Makes a complete file that shares the content of `uid`, which is complete, of the same tenant. Name and metadata are those of `uid` unless
/// there are others.
pub async fn copy_file(
    app: &Arc<App>,
    tenant: &Tenant,
    uid: Uid,
    name: Option<&str>,
    metadata: Option<Metadata>,
) -> Result<FileRecord> {
    let name = name.map(name_of).transpose().map_err(|error| error.with_field("name"))?;
    if let Some(metadata) = &metadata {
        check_metadata(metadata)?;
    }
    for _ in 0..ROUNDS {
        let copy = app.next_uid().await?;
        let name = name.map(str::to_owned);
        match app.meta.copy_file(tenant.clone(), uid, copy, name, metadata.clone()).await? {
            Copied::Now => return describe_file(app, tenant, copy).await,
            Copied::Changed => {}
            Copied::OverQuota => return Err(Error::over_quota()),
            Copied::Closed(FileState::Stored) => {
                return Err(Error::internal("a stored file without content"));
            }
            Copied::Closed(state) => return Err(closed(state)),
            Copied::Unknown => return Err(unknown_uid()),
        }
    }
    Err(Error::unavailable("the content of the file moved too often"))
}
