//! Tell what is there of a file that is sent in parts.

use super::{closed, unknown_uid};
use crate::{Result, app::App, meta::FileState, uid::Uid};

/// The numbers of the parts that were received, ascending. Of a file that is complete, all that it was sent in.
pub async fn upload_status(app: &App, uid: Uid) -> Result<Vec<u32>> {
    let status = app.meta.upload_status(uid).await?.ok_or_else(unknown_uid)?;
    match status.state {
        FileState::Pending | FileState::Receiving | FileState::Completing | FileState::Stored => {
            Ok(status.parts)
        }
        state @ (FileState::Expired | FileState::Corrupt | FileState::Deleted) => Err(closed(state)),
    }
}
