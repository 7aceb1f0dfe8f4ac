//! What an upload sends. Files and bytes can be read again; a stream cannot.

use std::{
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use blake3::hazmat::HasherExt;
use bytes::{Bytes, BytesMut};
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{Error, ErrorKind, Result};

/// Bytes that are read from a file at a time.
pub(crate) const BLOCK: usize = 256 << 10;

/// What an upload sends: a file, bytes, or a stream whose length is not known.
pub struct Source(pub(crate) Kind);

pub(crate) enum Kind {
    File(PathBuf),
    Bytes(Bytes),
    Stream(BoxStream<'static, io::Result<Bytes>>),
}

impl Source {
    /// The file at this path. It must not be changed while it is sent.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self(Kind::File(path.into()))
    }

    /// These bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }

    /// A stream of unknown length. Each part is buffered in memory until it is sent.
    pub fn stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self(Kind::Stream(stream.boxed()))
    }

    /// A reader of unknown length, such as a pipe. Each part is buffered in memory until it is
    /// sent.
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::stream(stream::try_unfold(reader, async |mut reader| {
            let mut block = BytesMut::with_capacity(BLOCK);
            let read = reader.read_buf(&mut block).await?;
            Ok((read > 0).then(|| (block.freeze(), reader)))
        }))
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::path(path)
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::path(path)
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self::bytes(bytes)
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::bytes(bytes)
    }
}

/// Content that can be read again from any offset.
#[derive(Clone)]
pub(crate) enum Content {
    File(Arc<OpenFile>),
    Bytes(Bytes),
}

/// An open file, with its size and time when it was opened.
pub(crate) struct OpenFile {
    file: Arc<File>,
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
}

/// Digests of a range of content.
#[derive(Clone, Copy)]
pub(crate) struct RangeDigests {
    /// BLAKE3 of the bytes of the range alone.
    pub(crate) blake3: [u8; 32],
    /// SHA-256 of the bytes of the range alone.
    pub(crate) sha256: [u8; 32],
    /// Hash of the subtree that the range is in the BLAKE3 of the whole content.
    pub(crate) subtree: [u8; 32],
}

impl Content {
    /// Opens a file. Fails unless it is a regular file.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let context = || format!("cannot read {}", path.display());
        // Opening a named pipe would wait for a writer.
        let metadata = tokio::fs::metadata(path).await.map_err(|error| Error::io(context(), error))?;
        if !metadata.is_file() {
            let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
            return Err(Error::new(ErrorKind::Io, format!("{}: it is {kind}", context())));
        }
        let file = tokio::fs::File::open(path).await.map_err(|error| Error::io(context(), error))?;
        let metadata = file.metadata().await.map_err(|error| Error::io(context(), error))?;
        Ok(Self::File(Arc::new(OpenFile {
            file: Arc::new(file.into_std().await),
            path: path.to_owned(),
            size: metadata.len(),
            modified: metadata.modified().ok(),
        })))
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// When the file was changed last.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        match self {
            Self::File(file) => file.modified,
            Self::Bytes(_) => None,
        }
    }

    /// Fails if the file was changed since it was opened.
    pub(crate) async fn check_unchanged(&self) -> Result<()> {
        let Self::File(open) = self else { return Ok(()) };
        let file = open.file.clone();
        let metadata = blocking(move || file.metadata()).await;
        let metadata =
            metadata.map_err(|error| Error::io(format!("cannot read {}", open.path.display()), error))?;
        if metadata.len() == open.size && metadata.modified().ok() == open.modified {
            return Ok(());
        }
        let message = format!("{} was changed while it was sent", open.path.display());
        Err(Error::new(ErrorKind::SourceChanged, message))
    }

    /// The bytes of a range. Fails if the file ends before.
    pub(crate) fn stream(&self, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        match self {
            Self::Bytes(bytes) => {
                let index = |at| usize::try_from(at).unwrap_or(usize::MAX);
                let blocks = bytes.slice(index(range.start)..index(range.end));
                stream::iter((!blocks.is_empty()).then_some(Ok(blocks))).boxed()
            }
            Self::File(open) => {
                let file = open.file.clone();
                stream::try_unfold(range, move |Range { start, end }| {
                    let file = file.clone();
                    async move {
                        if start >= end {
                            return Ok(None);
                        }
                        let block = blocking(move || read_block(&file, start, end)).await?;
                        let next = start + block.len() as u64;
                        Ok(Some((block, next..end)))
                    }
                })
                .boxed()
            }
        }
    }

    /// Hashes a range that begins at a multiple of the part size.
    pub(crate) async fn hash(&self, range: Range<u64>) -> Result<RangeDigests> {
        let mut subtree = blake3::Hasher::new();
        subtree.set_input_offset(range.start);
        let content = self.clone();
        let hash = async move {
            let mut hashers = (blake3::Hasher::new(), Sha256::new(), subtree);
            let mut blocks = content.stream(range);
            while let Some(block) = blocks.next().await {
                let block = block?;
                hashers = blocking(move || {
                    hashers.0.update(&block);
                    hashers.1.update(&block);
                    hashers.2.update(&block);
                    Ok(hashers)
                })
                .await?;
            }
            let (whole, sha256, subtree) = hashers;
            io::Result::Ok(RangeDigests {
                blake3: whole.finalize().into(),
                sha256: sha256.finalize().into(),
                // The hash of no bytes is that of a root; it is not used.
                subtree: if whole.count() == 0 { [0; 32] } else { subtree.finalize_non_root() },
            })
        };
        match hash.await {
            Ok(digests) => Ok(digests),
            Err(error) => {
                self.check_unchanged().await?;
                Err(Error::io("cannot read the content", error))
            }
        }
    }

    /// The keyed BLAKE3 of some ranges: the answer to a challenge.
    pub(crate) async fn keyed_hash(&self, key: &[u8; 32], ranges: &[Range<u64>]) -> Result<String> {
        let mut hasher = blake3::Hasher::new_keyed(key);
        for range in ranges {
            if range.end > self.size() || range.start > range.end {
                return Err(Error::invalid("the challenge does not fit to the content"));
            }
            let mut blocks = self.stream(range.clone());
            while let Some(block) = blocks.next().await {
                hasher.update(&block.map_err(|error| Error::io("cannot read the content", error))?);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

fn read_block(file: &File, start: u64, end: u64) -> io::Result<Bytes> {
    let length = usize::try_from(end - start).unwrap_or(usize::MAX).min(BLOCK);
    let mut block = BytesMut::zeroed(length);
    let read = read_at(file, &mut block, start)?;
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
    }
    block.truncate(read);
    Ok(block.freeze())
}

#[cfg(unix)]
pub(crate) fn read_at(file: &File, block: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, block, offset)
}

#[cfg(windows)]
pub(crate) fn read_at(file: &File, block: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, block, offset)
}

/// Runs file operations on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
