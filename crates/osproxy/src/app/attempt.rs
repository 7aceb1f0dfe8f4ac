use std::sync::Arc;

use super::App;
use crate::{error, meta::Kind};

/// A number that nobody removes as long as this lives: what it names is being written.
pub struct Writing {
    app: Arc<App>,
    id: i64,
}

impl Writing {
    /// Takes the number of a blob or part, which is that of one attempt alone; where it can be, before there is a row
    /// of it: whoever removes such rows must find it taken.
    pub fn new(app: &Arc<App>, id: i64) -> Self {
        app.writing().insert(id);
        Self { app: app.clone(), id }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.app.writing().remove(&self.id);
    }
}

/// An object that is being written: an intent in the database, with or without an object. Dropped before it is
/// settled, it is removed with everything that was written for it.
///
/// What publishes the object must not be dropped half way: the object could appear after its row was removed.
pub struct Attempt {
    kind: Kind,
    writing: Option<Writing>,
    cleanup: Cleanup,
}

/// What becomes of an attempt that is dropped.
#[derive(Clone, Copy)]
enum Cleanup {
    /// The object is removed, then the row.
    Remove,
    /// The sweep removes both.
    LeaveToSweep,
    /// The row is removed. The object under its key is not this attempt's.
    KeepObject,
}

impl Attempt {
    /// Takes care of an intent that was just recorded, under a number that was taken before.
    pub fn new(kind: Kind, writing: Writing) -> Self {
        Self { kind, writing: Some(writing), cleanup: Cleanup::Remove }
    }

    /// Says that the store may bring forth the object at a later time, because it did not answer. Then the row stays until
    /// the sweep comes.
    pub fn may_appear_later(&mut self) {
        self.cleanup = Cleanup::LeaveToSweep;
    }

    /// Says that there was an object under the key that no row names, and which stays: the database may be older than the
    /// store.
    pub fn keep_object(&mut self) {
        tracing::error!(
            id = self.writing.as_ref().map(|writing| writing.id),
            "an object that nothing names is in the way"
        );
        self.cleanup = Cleanup::KeepObject;
    }

    /// Leaves things as they are: the object has become content, or its row is gone and it was never published.
    pub fn settle(mut self) {
        self.writing = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(writing) = self.writing.take() else {
            return;
        };
        let (kind, cleanup) = (self.kind, self.cleanup);
        writing.app.clone().background.spawn(async move {
            let cleaned = match cleanup {
                Cleanup::Remove => writing.app.discard(kind, writing.id).await,
                Cleanup::LeaveToSweep => Ok(true),
                Cleanup::KeepObject => writing.app.forget_unpublished(kind, writing.id).await,
            };
            // Whatever this cannot remove now, the sweep does later.
            if let Err(error) = cleaned {
                let (id, error) = (writing.id, error::chain(&error));
                tracing::warn!(id, ?kind, error, "cannot remove an unfinished upload yet");
            }
        });
    }
}
