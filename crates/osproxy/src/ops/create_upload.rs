//! Issue uids whose content may be sent from now on.

use std::time::Duration;

use time::OffsetDateTime;

use super::{check_expire, name_of};
use crate::{Result, app::App, meta::NewFile, uid::Uid};

/// Files whose content may be sent.
#[derive(Debug)]
pub struct CreatedUploads {
    /// In the order of the paths.
    pub uids: Vec<Uid>,
    /// When they were created; links are dated so.
    pub created_at: OffsetDateTime,
}

/// Creates one file, in state `pending`, for each path, whose links shall hold `expire` seconds.
/// All are recorded, durably, or none.
pub async fn create_upload(app: &App, paths: &[String], expire: i64) -> Result<CreatedUploads> {
    check_expire(app, expire)?;
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let name = name_of(path)?.to_owned();
        files.push((path, name));
    }
    let mut recorded = Vec::with_capacity(files.len());
    for (_, name) in files {
        recorded.push(NewFile { uid: app.next_uid().await?, name });
    }
    let uids = recorded.iter().map(|file| file.uid).collect();
    let created_at = OffsetDateTime::now_utc();
    let lapses = created_at + Duration::from_secs(expire.unsigned_abs());
    app.meta.create_files(recorded, lapses.unix_timestamp() * 1000).await?;
    Ok(CreatedUploads { uids, created_at })
}
