use std::sync::Arc;

use osproxy_storage::Key;

use super::App;
use crate::{
    error,
    meta::{Kind, Unfinished},
};

/// An object that is being written: an intent in the database, with or without an object. Dropped before it is
/// settled, it is removed with everything that was written for it.
pub struct Attempt {
    app: Arc<App>,
    unfinished: Unfinished,
    settled: bool,
}

impl Attempt {
    /// Takes care of an intent that was just recorded.
    pub fn new(app: &Arc<App>, kind: Kind, id: i64, key: &Key) -> Self {
        app.writing().insert(id);
        Self { app: app.clone(), unfinished: Unfinished::new(kind, id, key), settled: false }
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
        let (app, unfinished) = (self.app.clone(), self.unfinished.clone());
        if self.settled {
            app.writing().remove(&unfinished.id);
            return;
        }
        self.app.background.spawn(async move {
            // Whatever this cannot remove now, the sweep does later.
            if let Err(error) = app.discard(&unfinished).await {
                let id = unfinished.id;
                tracing::warn!(id, error = error::chain(&error), "cannot remove an unfinished upload yet");
            }
            app.writing().remove(&unfinished.id);
        });
    }
}
