//! Find the files that download links are asked for.

use std::sync::Arc;

use time::OffsetDateTime;

use super::check_expire;
use crate::{Result, app::App, meta::StoredFile, uid::Uid};

/// Files that may be read from now on.
#[derive(Debug)]
pub struct Readable {
    /// Those that are complete, in the order of the uids.
    pub files: Vec<Arc<StoredFile>>,
    /// When this was found out; links are dated so.
    pub date: OffsetDateTime,
}

/// The complete files among `uids`, for links that hold `expire` seconds. What is unknown or not complete
/// is left out.
pub async fn create_download_link(app: &App, uids: &[Uid], expire: i64) -> Result<Readable> {
    check_expire(app, expire)?;
    Ok(Readable { files: app.meta.stored_files(uids).await?, date: OffsetDateTime::now_utc() })
}
