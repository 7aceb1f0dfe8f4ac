//! Rust client of [osproxy](https://github.com/osproxy/osproxy), over API v1.
//!
//! Uploads are sent in parallel parts, and downloads received in parallel ranges; both are
//! repeated, resumed and verified by BLAKE3. The rest of API v1 are methods of [`Client`] with the
//! types of [`v1`].
//!
//! # Upload
//!
//! ```no_run
//! use osproxy_client::{Client, Source};
//!
//! # async fn example() -> osproxy_client::Result<()> {
//! let client = Client::builder("https://files.example.org").api_key("osk_…").build()?;
//! let film = client
//!     .upload(Source::path("film.mp4"))
//!     .metadata("owner", "ann")
//!     .parallel(8)
//!     .progress(|progress| println!("{} bytes", progress.transferred))
//!     .send()
//!     .await?;
//! println!("stored as {}", film.uid);
//! # Ok(())
//! # }
//! ```
//!
//! # Resume
//!
//! ```no_run
//! use osproxy_client::{Client, ResumableUpload, Source};
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let mut upload = client.upload(Source::path("film.mp4"));
//! upload = match std::fs::read("film.upload.json") {
//!     Ok(saved) => upload.resume(serde_json::from_slice::<ResumableUpload>(&saved)?),
//!     Err(_) => upload.on_start(|upload| {
//!         let json = serde_json::to_vec(upload).expect("it is JSON");
//!         std::fs::write("film.upload.json", json).expect("the folder can be written");
//!     }),
//! };
//! upload.send().await?;
//! std::fs::remove_file("film.upload.json")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Download
//!
//! ```no_run
//! # async fn example(client: osproxy_client::Client) -> osproxy_client::Result<()> {
//! let film = client.download("1548722401845518336").to_path("film.mp4").await?;
//! assert!(film.is_verified);
//!
//! let small = client.download("1548722401845518337").bytes(1 << 20).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # List
//!
//! ```no_run
//! use futures_util::TryStreamExt;
//! use osproxy_client::{Client, FileFilter};
//!
//! # async fn example(client: Client) -> osproxy_client::Result<()> {
//! let filter = FileFilter { prefix: Some("report".into()), ..FileFilter::default() };
//! let mut files = std::pin::pin!(client.list_files(filter));
//! while let Some(file) = files.try_next().await? {
//!     println!("{} {}", file.uid, file.name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! [`Error::kind`] tells failures of the network, of the server and of local files apart;
//! [`Error::code`] is the code of a refusal. What can be repeated has been repeated before an error is
//! returned, as [`RetryPolicy`] says.
//!
//! # Runtime
//!
//! Futures run on Tokio. TLS is rustls with the roots of the platform; if no crypto provider is
//! installed in the process, [`ClientBuilder::build`] installs that of ring.

mod api;
mod client;
mod digest;
mod download;
mod error;
mod progress;
mod retry;
mod source;
mod upload;

pub use api::{FileFilter, TaskFilter};
pub use client::{Client, ClientBuilder};
pub use download::{Download, Downloaded};
pub use error::{Error, ErrorKind, Result};
pub use osproxy_api::{ErrorCode, v1};
pub use progress::Progress;
pub use retry::RetryPolicy;
pub use source::Source;
pub use upload::{ResumableUpload, Upload, Uploaded};
