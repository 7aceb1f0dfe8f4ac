//! Write guards: they protect running writes from the sweep, and clean up after unfinished ones.

use std::sync::Arc;

use osproxy_meta::ObjectRowKind;
use osproxy_storage::{ErrorKind, ObjectWriter};
use osproxy_types::error_chain;

use super::Objects;
use crate::Result;

/// Marks a blob or part as being written by this process. Nothing removes it while this value
/// lives.
pub(crate) struct ActiveWrite {
    objects: Arc<Objects>,
    id: i64,
}

impl ActiveWrite {
    /// Marks the blob or part `id`, which belongs to one write only. Call this before its row
    /// exists, where possible: code that removes such rows must find the mark.
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

/// A write guard: the write intent is in the database, the object may exist or not. Dropped before
/// [`disarm`](Self::disarm), it removes the row and everything that was written.
///
/// A future that publishes the object must run to its end: if it is dropped half way, the object
/// can appear after its row was removed.
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
    /// Nothing: the sweep removes both.
    LeaveToSweep,
    /// Only the row. The object under its key is not from this write.
    KeepObject,
}

impl WriteGuard {
    /// Guards a write intent that was just recorded.
    pub(crate) fn new(kind: ObjectRowKind, writing: ActiveWrite) -> Self {
        Self { kind, active: Some(writing), cleanup: Cleanup::Remove }
    }

    /// Leaves the cleanup to the sweep, because the store did not answer and may create the object
    /// later. The row must stay until then.
    fn leave_to_sweep(&mut self) {
        self.cleanup = Cleanup::LeaveToSweep;
    }

    /// Makes the guard remove only the row when it is dropped, and log an error. For an object that
    /// existed under the key before this write. That happens when the database is older than the
    /// store, such as after a restore.
    fn keep_object(&mut self) {
        tracing::error!(
            id = self.active.as_ref().map(|writing| writing.id),
            "an object without a database row exists under this key; keeping it"
        );
        self.cleanup = Cleanup::KeepObject;
    }

    /// Publishes the writer, unless that was done before. On failure, decides what the guard may
    /// remove.
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

    /// Disarms the guard: the object is content now, or it was never published and its row is gone.
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
            // The sweep removes later what cannot be removed now.
            if let Err(error) = cleaned {
                let (id, error) = (writing.id, error_chain(&error));
                tracing::warn!(id, ?kind, error, "cannot remove an unfinished write; the sweep retries");
            }
        });
    }
}
