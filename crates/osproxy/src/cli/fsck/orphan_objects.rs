//! Looks for orphans: objects of the store that no row names.

use futures_util::TryStreamExt;
use osproxy_core::Result;
use osproxy_storage::{Key, ListedObject};

use super::checker::Fsck;

/// Number of listed objects that are looked up in the database at a time.
const LISTED: usize = 2000;

impl Fsck {
    /// Looks for orphans: objects of the store that no row names.
    pub(super) async fn check_orphans(&mut self) -> Result<()> {
        let app = self.app.clone();
        let objects = app.stores.get(&self.store)?.list().await?;
        let mut pages = objects.try_chunks(LISTED);
        while let Some(page) = pages.try_next().await.map_err(|error| error.1)? {
            self.objects += page.len() as u64;
            self.bytes += page.iter().map(|object| object.size).sum::<u64>();
            let names: Vec<_> = page.iter().map(|object| object.name.clone()).collect();
            let referenced = app.meta.admin.referenced_objects(&self.store, &names).await?;
            for object in page.iter().filter(|object| !referenced.contains(&object.name)) {
                self.handle_orphan(object).await?;
            }
        }
        Ok(())
    }

    async fn handle_orphan(&mut self, object: &ListedObject) -> Result<()> {
        let what = format!("object {} ({} bytes) is an orphan: no row names it", object.name, object.size);
        let deleted = match Key::parse(&object.name) {
            Ok(key) if self.options.delete_orphans => {
                self.app.stores.get(&self.store)?.delete(&[key]).await?;
                true
            }
            _ => false,
        };
        self.report(what, deleted);
        Ok(())
    }
}
