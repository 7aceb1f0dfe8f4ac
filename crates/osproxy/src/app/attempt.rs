use std::sync::Arc;

use osproxy_storage::Key;

use super::App;
use crate::{
    error,
    meta::{Kind, Unfinished},
};

/// A number that nobody removes as long as this lives: what it names is being written.
pub struct Writing {
    app: Arc<App>,
    id: i64,
}

impl Writing {
    /// Takes the number of a blob or part.
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
    writing: Option<Writing>,
    unfinished: Unfinished,
    settled: bool,
}

impl Attempt {
    /// Takes care of an intent that was just recorded.
    pub fn new(app: &Arc<App>, kind: Kind, id: i64, key: &Key) -> Self {
        Self::of(Writing::new(app, id), kind, key)
    }

    /// Takes care of an intent whose number was taken before it was recorded.
    pub fn of(writing: Writing, kind: Kind, key: &Key) -> Self {
        let unfinished = Unfinished::new(kind, writing.id, key);
        Self { writing: Some(writing), unfinished, settled: false }
    }

    /// Leaves things as they are: the object has become content, or its row is gone and it was never published.
    pub fn settle(mut self) {
        self.settled = true;
    }

    /// Says that the intent names another object now, which is to be removed in its place.
    pub fn renamed(&mut self, key: &Key) {
        self.unfinished.object_key = key.to_string();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(writing) = self.writing.take().filter(|_| !self.settled) else {
            return;
        };
        let unfinished = self.unfinished.clone();
        writing.app.background.clone().spawn(async move {
            // Whatever this cannot remove now, the sweep does later.
            if let Err(error) = writing.app.discard(&unfinished).await {
                let id = unfinished.id;
                tracing::warn!(id, error = error::chain(&error), "cannot remove an unfinished upload yet");
            }
        });
    }
}
