//! What stores collect in uploads of their own, compared with the rows that name it.

use osproxy_storage::{ErrorKind, Key, Multipart};

use super::check::Check;
use crate::{
    Result,
    meta::{BlobState, Lost, PartState, RecordedBlob, RecordedPart},
};

impl Check {
    /// Asks the store for the uploads that it has.
    pub(super) async fn list_uploads(&mut self) -> Result<()> {
        self.uploads.clear();
        if let Some(multipart) = self.app.stores.get(&self.store)?.multipart() {
            self.uploads.extend(multipart.uploads(None).await?);
        }
        Ok(())
    }

    /// An upload that is not complete, of a blob that collects in the store's.
    pub(super) async fn collecting(
        &mut self,
        blob: &RecordedBlob,
        upload: &str,
        parts: &[RecordedPart],
    ) -> Result<()> {
        // Between the store's answer and what is made of it the object is there already, and the upload is not.
        let is_object = self.unnamed.remove(&blob.object_key).is_some();
        let known = self.uploads.remove(&(blob.object_key.clone(), upload.to_owned()));
        if upload.is_empty() || is_object {
            return Ok(());
        }
        let key = Key::parse(&blob.object_key).map_err(crate::Error::internal)?;
        let multipart = self.app.stores.multipart(&self.store)?;
        if multipart.has_places() {
            return self.placed(blob, upload, parts, known).await;
        }
        let there = match multipart.parts(&key, upload).await {
            Err(error) if error.kind == ErrorKind::NotFound => Vec::new(),
            there => there?,
        };
        let counts = |part: &&RecordedPart| part.state == PartState::Stored;
        let tagged = parts.iter().filter(counts).filter_map(|part| {
            let tag = part.tag.clone()?;
            Some((part.number.cast_unsigned(), tag))
        });
        let lost: Vec<_> = tagged.filter(|part| !there.contains(part)).map(|(number, _)| number).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let what = format!("the store has lost parts {lost:?} of blob {}", blob.id);
        if self.options.repair {
            let lost = if known { Lost::Parts(lost) } else { Lost::Upload };
            self.app.meta.lose_native_parts(blob.id, upload.to_owned(), lost).await?;
        }
        self.difference(what, self.options.repair);
        Ok(())
    }

    /// The same, where parts lie in the object to be: they are there as long as that is.
    async fn placed(
        &mut self,
        blob: &RecordedBlob,
        upload: &str,
        parts: &[RecordedPart],
        is_there: bool,
    ) -> Result<()> {
        let counts = |part: &&RecordedPart| part.state == PartState::Stored && part.tag.is_some();
        let lost = parts.iter().filter(counts).count();
        if is_there || lost == 0 {
            return Ok(());
        }
        if self.options.repair {
            self.app.meta.lose_native_parts(blob.id, upload.to_owned(), Lost::Upload).await?;
        }
        self.difference(format!("{lost} parts of blob {} are lost", blob.id), self.options.repair);
        Ok(())
    }

    /// Further uploads under the key of a blob, which a process began that died before it could record them.
    pub(super) async fn further_uploads(&mut self, blob: &RecordedBlob) -> Result<()> {
        if blob.state == BlobState::Receiving {
            // They go when the upload comes to its end.
            self.uploads.retain(|(name, _)| *name != blob.object_key);
            return Ok(());
        }
        let of_blob: Vec<_> = self.uploads.extract_if(|(name, _)| *name == blob.object_key).collect();
        for (name, upload) in of_blob {
            let what = format!("the store collects parts of {name} that are of no upload");
            let dropped = if self.options.repair { Some(self.abort(&name, &upload).await) } else { None };
            self.repaired(what, dropped);
        }
        Ok(())
    }

    /// Uploads that no row names.
    pub(super) async fn stray_uploads(&mut self) -> Result<()> {
        let mut strays: Vec<_> = self.uploads.drain().collect();
        strays.sort();
        for (name, upload) in strays {
            let what = format!("the store collects parts of {name}, which is named by nothing");
            let dropped =
                if self.options.delete_strays { Some(self.abort(&name, &upload).await) } else { None };
            self.repaired(what, dropped);
        }
        Ok(())
    }

    async fn abort(&self, name: &str, upload: &str) -> Result<bool> {
        let Ok(key) = Key::parse(name) else {
            return Ok(false);
        };
        self.app.stores.multipart(&self.store)?.abort(&key, upload).await?;
        Ok(true)
    }

    /// The object that the store has made of some parts of content that waits to be merged.
    pub(super) async fn put_together(&mut self, blob: &RecordedBlob, parts: &[RecordedPart]) -> Result<()> {
        let native = parts.iter().filter(|part| part.state == PartState::Stored && part.tag.is_some());
        let (count, mut size) = native.fold((0, 0), |(count, size), part| (count + 1, size + part.size));
        if self.app.stores.multipart(&self.store).is_ok_and(Multipart::has_places) {
            // What is missing is a hole in it.
            size = blob.size;
        }
        if count == 0 {
            return Ok(());
        }
        let what = format!("what the store put together of blob {} ({})", blob.id, blob.object_key);
        let found = self.unnamed.remove(&blob.object_key);
        if !self.compare(&what, size, found) || !self.options.deep {
            return Ok(());
        }
        let stored: Vec<_> =
            self.app.meta.parts(blob.id).await?.into_iter().filter(|part| !part.is_object).collect();
        let (each, _) = self.app.stores.digest_parts(&self.store, &stored).await?;
        for (part, digests) in stored.iter().zip(each) {
            if !part.known.is_of(&digests) {
                self.difference(format!("{what} has other bytes than it had in part {}", part.number), false);
            }
        }
        Ok(())
    }
}
