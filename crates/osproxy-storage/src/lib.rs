//! Object stores behind one trait.
//!
//! A [`Backend`] stores objects under [`Key`]s. A writer takes a stream of bytes and returns their
//! digests. The object appears under its key as a whole or not at all. A reader streams a byte
//! range. This crate has no notion of files, uids or links. It hides paths, file descriptors and
//! vendors from its users.
//!
//! ```
//! use futures_util::TryStreamExt;
//! use osproxy_storage::{Backend, Category, Key, SizeHint, backends::Memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), osproxy_storage::Error> {
//! let store = Memory::default();
//! let key = Key::whole(Category::of_name("film.mp4"), 1, Some("mp4"));
//! assert_eq!(key.as_str(), "video/1.mp4");
//!
//! // The object is invisible until it is published. A writer that is dropped before `publish`
//! // leaves nothing behind.
//! let mut writer = store.create(&key, SizeHint::Exact(9)).await?;
//! writer.write("any bytes".into()).await?;
//! let digests = writer.finish().await?;
//! assert_eq!(digests.size, 9);
//! writer.publish().await?;
//!
//! let read: Vec<_> = store.open(&key, 4..9).await?.try_collect().await?;
//! assert_eq!(read.concat(), b"bytes");
//! store.delete(&[key]).await?;
//! # Ok(())
//! # }
//! ```

mod backend;
pub mod backends;
mod budget;
mod buffer;
#[cfg(test)]
mod conformance;
mod digest;
mod disk;
mod durations;
mod error;
mod key;
pub mod layers;
mod object_http;
mod retry_policy;

pub use backend::{
    Backend, ListedObject, ListedUpload, Multipart, ObjectList, ObjectReader, ObjectWriter, PackPage,
    PackRecord, PackedContent, PackedObject, Packs, PartLayout, SizeHint, UploadList,
};
pub use budget::{BufferBudget, BufferReservation};
pub use digest::{DigestSelection, Digester, Digests, combine_subtrees};
pub use disk::{DiskSpace, check_writable};
pub use durations::{DurationHistogram, HistogramSnapshot};
pub use error::{Error, ErrorKind, Result};
pub use key::{Category, InvalidKey, Key, PackLocation, extension};
pub use object_http::{ClientSettings, Diagnosis, ErrorResponse, UNKNOWN_PART, install_crypto_provider};
