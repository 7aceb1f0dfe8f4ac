//! Checks of buckets: do keys and files refer to each other?

use osproxy_core::Result;
use osproxy_meta::{FileState, KeyRecord};

use super::checker::{Fsck, PAGE};

/// The states of the file of an object.
const OF_OBJECTS: [FileState; 3] = [FileState::Stored, FileState::Quarantined, FileState::Corrupt];
/// The states of a file that is to become an object.
const OF_UPLOADS: [FileState; 5] = [
    FileState::Pending,
    FileState::Receiving,
    FileState::Completing,
    FileState::Processing,
    FileState::Quarantined,
];

impl Fsck {
    /// Checks the keys of all buckets, and the files that name a bucket.
    pub(super) async fn check_keys(&mut self) -> Result<()> {
        self.check_object_keys().await?;
        self.check_upload_keys().await?;
        self.check_files_without_key().await
    }

    async fn check_object_keys(&mut self) -> Result<()> {
        let app = self.app.clone();
        let mut after = 0;
        loop {
            let page = app.meta.admin.object_keys(after, PAGE as u64).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.uid.get();
            for object in page {
                let why = match object.state {
                    Some(state) if !OF_OBJECTS.contains(&state) => Some("has no readable file"),
                    None => Some("has no file"),
                    Some(_) if !object.has_bucket => Some("has no bucket"),
                    Some(_) => None,
                };
                let what = format!("object {:?}", object.key);
                let Some(why) = why else {
                    self.check_bucket(&what, &object).await?;
                    continue;
                };
                if self.options.repair {
                    app.meta.admin.remove_object_key(object.uid).await?;
                }
                self.report(format!("{what} {why} ({})", object.uid), self.options.repair);
            }
        }
    }

    async fn check_upload_keys(&mut self) -> Result<()> {
        let app = self.app.clone();
        let mut after = 0;
        loop {
            let page = app.meta.admin.upload_keys(after, PAGE as u64).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.uid.get();
            for upload in page {
                let what = format!("the upload of object {:?}", upload.key);
                if upload.state.is_some_and(|state| OF_UPLOADS.contains(&state)) {
                    self.check_bucket(&what, &upload).await?;
                    continue;
                }
                if self.options.repair {
                    app.meta.admin.remove_upload_key(upload.uid).await?;
                }
                self.report(format!("{what} has no open file ({})", upload.uid), self.options.repair);
            }
        }
    }

    async fn check_files_without_key(&mut self) -> Result<()> {
        let app = self.app.clone();
        let mut after = 0;
        loop {
            let page = app.meta.admin.files_without_key(after, PAGE as u64).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.get();
            for uid in page {
                if self.options.repair {
                    app.meta.admin.name_bucket(uid, None).await?;
                }
                self.report(format!("file {uid} names a bucket but has no key"), self.options.repair);
            }
        }
    }

    /// Checks that the file of a key names the bucket of the key.
    async fn check_bucket(&mut self, what: &str, record: &KeyRecord) -> Result<()> {
        if record.named == Some(record.bucket_id) {
            return Ok(());
        }
        if self.options.repair {
            self.app.meta.admin.name_bucket(record.uid, Some(record.bucket_id)).await?;
        }
        self.report(
            format!("{what} is in another bucket than its file ({})", record.uid),
            self.options.repair,
        );
        Ok(())
    }
}
