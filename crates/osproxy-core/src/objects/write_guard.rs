//! Write guards: protect running writes from the sweep, and remove what unfinished writes leave
//! behind.

use std::sync::Arc;

use osproxy_meta::ObjectRowKind;
use osproxy_storage::{ErrorKind, ObjectWriter};
use osproxy_types::error_chain;

use super::Objects;
use crate::Result;

/// Marks a blob or part as being written by this process. The sweep and the deletion of a blob skip
/// marked rows. Dropping this value removes the mark.
pub(crate) struct ActiveWrite {
    objects: Arc<Objects>,
    id: i64,
}

impl ActiveWrite {
    /// Marks the blob or part `id`. No other write may use this id. Where possible, call this
    /// before the row of the blob or part exists, so that code that removes unfinished rows always
    /// finds the mark.
    pub(crate) fn new(objects: &Arc<Objects>, id: i64) -> Self {
        objects.active_writes().insert(id);
        Self { objects: objects.clone(), id }
    }
}

impl Drop for ActiveWrite {
    fn drop(&mut self) {
        self.objects.active_writes().remove(&self.id);
    }
}

/// A write guard. The write intent is in the database; the object may exist or not. If the guard is
/// dropped before [`disarm`](Self::disarm), it cleans up as its [`Cleanup`] says.
///
/// A future that publishes the object must run to its end. If the future were dropped half way, the
/// object could appear after the row was removed.
pub(crate) struct WriteGuard {
    kind: ObjectRowKind,
    active: Option<ActiveWrite>,
    cleanup: Cleanup,
}

/// What a dropped guard removes.
#[derive(Clone, Copy)]
enum Cleanup {
    /// The object, then the row.
    Remove,
    /// Nothing: the sweep removes the object and the row.
    LeaveToSweep,
    /// Only the row. The object under the key of the row is from another write.
    KeepObject,
}

impl WriteGuard {
    /// Guards a write intent that was just recorded.
    pub(crate) fn new(kind: ObjectRowKind, writing: ActiveWrite) -> Self {
        Self { kind, active: Some(writing), cleanup: Cleanup::Remove }
    }

    /// Leaves the cleanup to the sweep. Call this if the store did not answer: the store may still
    /// create the object, so the row must stay for now.
    fn leave_to_sweep(&mut self) {
        self.cleanup = Cleanup::LeaveToSweep;
    }

    /// Makes the guard remove only the row, and logs an error. Call this if an object was under the
    /// key before this write. That happens if the database is older than the store, for example
    /// after a restore.
    fn keep_object(&mut self) {
        tracing::error!(
            id = self.active.as_ref().map(|writing| writing.id),
            "the store already has an object under the key of this write; keeping the object"
        );
        self.cleanup = Cleanup::KeepObject;
    }

    /// Publishes the object, unless an earlier call already took the writer. If publishing fails,
    /// decides what the guard removes.
    pub(crate) async fn publish(&mut self, unpublished: &mut Option<Box<dyn ObjectWriter>>) -> Result<()> {
        let Some(writer) = unpublished.take() else {
            return Ok(());
        };
        if let Err(error) = writer.publish().await {
            match error.kind {
                ErrorKind::Other if error.retryable => self.leave_to_sweep(),
                ErrorKind::Exists => self.keep_object(),
                _ => {}
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Disarms the guard. Call this when the object has become content, or when the object was
    /// never published and its row is deleted.
    pub(crate) fn disarm(mut self) {
        self.active = None;
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let Some(writing) = self.active.take() else {
            return;
        };
        let (kind, cleanup) = (self.kind, self.cleanup);
        writing.objects.clone().detached_work.spawn(async move {
            let cleaned = match cleanup {
                Cleanup::Remove => writing.objects.delete_unreferenced(kind, writing.id).await,
                Cleanup::LeaveToSweep => Ok(true),
                Cleanup::KeepObject => writing.objects.delete_unpublished_row(kind, writing.id).await,
            };
            // If this fails, the sweep cleans up later.
            if let Err(error) = cleaned {
                let (id, error) = (writing.id, error_chain(&error));
                tracing::warn!(id, ?kind, error, "cannot remove an unfinished write; the sweep retries");
            }
        });
    }
}
