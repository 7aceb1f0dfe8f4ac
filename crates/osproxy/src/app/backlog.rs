use osproxy_api::ErrorCode;

use super::App;
use crate::{Error, Result};

/// What somebody wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// An upload that nobody has heard of yet.
    Upload,
    /// Sending content for one that was granted.
    Content,
}

impl App {
    /// Returns `StorageFull` while the disk of the database is full: what is left is for what makes room.
    pub fn must_have_room(&self) -> Result<()> {
        if self.meta.is_full() {
            return Err(Error::storage_full("the disk of the database is full"));
        }
        Ok(())
    }

    /// Refuses to begin something new while more than `limits.max_backlog` transactions and contents that have come wait for
    /// the database and the disk; content, while half as many again do. What has begun goes on: to give that up would cost what was
    /// done for it, and the more there is to do, the less would be done. Nor do those who only read wait for it then.
    pub fn must_keep_up(&self, beginning: Beginning) -> Result<()> {
        self.must_have_room()?;
        let backlog = self.meta.waiting_writes() + self.metrics.endings.count();
        let most = match beginning {
            Beginning::Upload => self.limits.max_backlog,
            Beginning::Content => self.limits.max_backlog + self.limits.max_backlog / 2,
        };
        if backlog < most {
            return Ok(());
        }
        let message = "as much is being stored as this service takes on, try again in a moment";
        Err(Error::new(ErrorCode::Overloaded, message))
    }
}
