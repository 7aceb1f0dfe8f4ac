//! Take the whole content of a file in one request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use osproxy_api::ErrorCode;
use osproxy_storage::{Digests, Key, ObjectWriter};

use super::{download_file::download_file, is_intact, sweep};
use crate::{
    Error, Result,
    app::App,
    content_type, error,
    meta::{Begun, Finished, Intent, StoredFile},
    uid::Uid,
};

/// How often content that appears and disappears elsewhere is followed before the client has to try again.
const ROUNDS: usize = 4;

/// What is known of a body's length before it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeHint {
    /// So many bytes, or the body is broken.
    Exact(u64),
    /// Not more than so many bytes.
    AtMost(u64),
    /// Nothing.
    Unknown,
}

/// Stores `body` as the content of `uid` and returns when it is durable. With `md5` the content must have that digest.
///
/// Attempts for one uid may run at the same time; the first to end wins, and the others succeed if they sent the
/// same. Whatever does not succeed leaves nothing behind: not when the body breaks off, not when the caller is dropped.
pub async fn upload_file(
    app: &Arc<App>,
    uid: Uid,
    md5: Option<[u8; 16]>,
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    // What has begun to take effect is brought to its end, even if the client is gone: a task is not dropped with it.
    let beginning = app.background.spawn(begin(app.clone(), uid));
    match beginning.await.map_err(Error::internal)?? {
        Beginning::Ready(attempt) => {
            let content = receive(app, &attempt.intent.key, app.limits.max_size, size, body).await?;
            check_md5(md5, &content.digests)?;
            let ending = app.background.spawn(store(attempt, uid, content));
            ending.await.map_err(Error::internal)?
        }
        Beginning::Stored(stored) => {
            let digests = &stored.blob.digests;
            check_md5(md5, digests).map_err(|_| already_stored())?;
            // Only compared: the writer is dropped and removes what it wrote, never more than the file has.
            let content = receive(app, &stored.blob.key, digests.size, size, body).await;
            let content = content.map_err(|error| match error.code {
                ErrorCode::TooLarge => already_stored(),
                _ => error,
            })?;
            must_equal(digests, &content.digests)
        }
    }
}

enum Beginning {
    Ready(Attempt),
    Stored(Arc<StoredFile>),
}

async fn begin(app: Arc<App>, uid: Uid) -> Result<Beginning> {
    let spare = app.next_uid().await?;
    match app.meta.begin_upload(uid, spare, app.storage.name()).await? {
        Begun::Ready(intent) => Ok(Beginning::Ready(Attempt::new(app, intent))),
        Begun::Stored => Ok(Beginning::Stored(download_file(&app, uid).await?)),
        Begun::Unknown => Err(Error::new(ErrorCode::FileNotFound, "there is no file with this uid")),
    }
}

/// Content that has come in and is not published yet.
struct Received {
    writer: Box<dyn ObjectWriter>,
    digests: Digests,
    sniffed: Option<&'static str>,
}

/// Takes a body of at most `max_size` bytes off the client.
async fn receive(
    app: &App,
    key: &Key,
    max_size: u64,
    size: SizeHint,
    mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<Received> {
    if let SizeHint::Exact(size) = size {
        check_size(max_size, size)?;
    }
    let hint = match size {
        SizeHint::Exact(size) | SizeHint::AtMost(size) => Some(size),
        SizeHint::Unknown => None,
    };
    let mut writer = app.storage.create(key, hint).await?;
    let mut head = Vec::new();
    let mut received = 0;
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        received += bytes.len() as u64;
        check_size(max_size, received)?;
        if head.len() < content_type::HEAD {
            let missing = (content_type::HEAD - head.len()).min(bytes.len());
            head.extend_from_slice(bytes.get(..missing).unwrap_or_default());
        }
        writer.write(bytes).await?;
    }
    if let SizeHint::Exact(size) = size
        && size != received
    {
        return Err(Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete"));
    }
    Ok(Received { digests: writer.finish().await?, writer, sniffed: content_type::sniff(&head) })
}

/// Makes received content the file's: by sharing a blob with the same content if there is one, else by publishing it.
async fn store(mut attempt: Attempt, uid: Uid, content: Received) -> Result<()> {
    let Received { writer, digests, sniffed } = content;
    let app = attempt.app.clone();
    let content_type = content_type::of_file(sniffed, &attempt.intent.name);
    let intent_id = attempt.intent.blob_id;
    let mut unpublished = Some(writer);
    for _ in 0..ROUNDS {
        let same = app.meta.blob_by_blake3(digests.blake3).await?;
        let finished = match same {
            Some(same) if is_intact(&app, &same).await? => {
                let intent = unpublished.as_ref().map(|_| intent_id);
                let shared = app.meta.share_blob(uid, same.id, intent, content_type.clone()).await?;
                attempt.settled = shared == Finished::Stored && intent.is_some();
                shared
            }
            Some(lost) => {
                tracing::error!(
                    blob_id = lost.id,
                    "content was lost from the store; mending it with what was sent"
                );
                publish(&mut unpublished).await?;
                match app.meta.mend_blob(&lost, intent_id).await? {
                    Finished::Stored => {
                        // The attempt now names what was damaged, and removes it at its end. The file shares what
                        // was mended in the next round.
                        attempt.intent.key = lost.key;
                        Finished::Changed
                    }
                    other => other,
                }
            }
            None => {
                publish(&mut unpublished).await?;
                let content_type = content_type.clone();
                let stored = app.meta.finish_upload(uid, intent_id, digests, sniffed, content_type).await?;
                attempt.settled = stored == Finished::Stored;
                stored
            }
        };
        match finished {
            Finished::Stored => return Ok(()),
            Finished::Changed => {}
            Finished::Beaten => {
                let winner = download_file(&app, uid).await?;
                return must_equal(&winner.blob.digests, &digests);
            }
            Finished::Swept => {
                return Err(Error::unavailable("the upload was swept away while it was finishing"));
            }
        }
    }
    Err(Error::unavailable("content that is the same came and went too often"))
}

async fn publish(unpublished: &mut Option<Box<dyn ObjectWriter>>) -> Result<()> {
    match unpublished.take() {
        Some(writer) => Ok(writer.publish().await?),
        None => Ok(()),
    }
}

fn check_size(max: u64, size: u64) -> Result<()> {
    if size > max {
        let message = format!("a file must not be larger than {max} bytes");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    Ok(())
}

fn check_md5(claimed: Option<[u8; 16]>, digests: &Digests) -> Result<()> {
    match claimed {
        Some(claimed) if claimed != digests.md5 => Err(Error::new(
            ErrorCode::DigestMismatch,
            format!("the content's md5 is {}, not the one announced", hex::encode(digests.md5)),
        )),
        _ => Ok(()),
    }
}

fn must_equal(stored: &Digests, sent: &Digests) -> Result<()> {
    if stored == sent { Ok(()) } else { Err(already_stored()) }
}

fn already_stored() -> Error {
    Error::new(ErrorCode::AlreadyStored, "this uid already has other content, which never changes")
}

/// An intent in the database, with or without an object. Dropped before it is settled, it is removed with
/// everything that was written for it.
struct Attempt {
    app: Arc<App>,
    intent: Intent,
    settled: bool,
}

impl Attempt {
    fn new(app: Arc<App>, intent: Intent) -> Self {
        app.writing().insert(intent.blob_id);
        Self { app, intent, settled: false }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (app, id, key) = (self.app.clone(), self.intent.blob_id, self.intent.key.clone());
        if self.settled {
            app.writing().remove(&id);
            return;
        }
        self.app.background.spawn(async move {
            // Whatever this cannot remove now, the sweeper does later.
            if let Err(error) = sweep::discard(&app, id, &key).await {
                tracing::warn!(
                    blob_id = id,
                    error = error::chain(&error),
                    "cannot remove an unfinished upload yet"
                );
            }
            app.writing().remove(&id);
        });
    }
}
