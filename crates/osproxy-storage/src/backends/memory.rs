//! Objects in memory, for tests.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;

use crate::{
    Backend, DigestSelection, Digester, Digests, Error, ErrorKind, Key, ListedObject, ObjectList,
    ObjectReader, ObjectWriter, Result, SizeHint,
};

const NAME: &str = "memory";

/// Objects in memory, for tests: the smallest backend that passes the conformance suite.
#[derive(Clone, Default)]
pub struct Memory {
    objects: Arc<Mutex<HashMap<Key, Bytes>>>,
}

impl Memory {
    fn objects(&self) -> MutexGuard<'_, HashMap<Key, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &Key, operation: &'static str) -> Result<Bytes> {
        let object = self.objects().get(key).cloned();
        object.ok_or_else(|| Error::new(ErrorKind::NotFound, NAME, operation))
    }
}

#[async_trait]
impl Backend for Memory {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, key: &Key, _size: SizeHint) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(Writer {
            store: self.clone(),
            key: key.clone(),
            content: BytesMut::new(),
            digester: Digester::default(),
        }))
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<ObjectReader> {
        let object = self.get(key, "open")?;
        let truncated = || Error::new(ErrorKind::Truncated, NAME, "open");
        let start = usize::try_from(range.start).map_err(|_| truncated())?;
        let end = usize::try_from(range.end).map_err(|_| truncated())?;
        if start > end || end > object.len() {
            return Err(truncated());
        }
        Ok(Box::pin(stream::iter([Ok(object.slice(start..end))])))
    }

    async fn size(&self, key: &Key) -> Result<u64> {
        self.get(key, "size").map(|object| object.len() as u64)
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let mut objects = self.objects();
        for key in keys {
            objects.remove(key);
        }
        Ok(())
    }

    async fn list(&self) -> Result<ObjectList> {
        let listed = |(key, content): (&Key, &Bytes)| {
            Ok(ListedObject { name: key.to_string(), size: content.len() as u64 })
        };
        let all: Vec<_> = self.objects().iter().map(listed).collect();
        Ok(Box::pin(stream::iter(all)))
    }
}

struct Writer {
    store: Memory,
    key: Key,
    content: BytesMut,
    digester: Digester,
}

#[async_trait]
impl ObjectWriter for Writer {
    fn select_digests(&mut self, selection: DigestSelection) {
        self.digester = Digester::new(selection);
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.digester.update(&bytes);
        self.content.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(&mut self) -> Result<Digests> {
        Ok(self.digester.clone().finish())
    }

    async fn publish(self: Box<Self>) -> Result<String> {
        self.store.objects().insert(self.key, self.content.freeze());
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn conforms() {
        crate::conformance::run(&super::Memory::default()).await;
    }
}
