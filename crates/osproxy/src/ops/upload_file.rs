//! Take the whole content of a file in one request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use osproxy_api::ErrorCode;
use osproxy_storage::{Digests, Key, ObjectWriter};

use super::sweep;
use crate::{
    Error, Result,
    app::App,
    content_type, error,
    meta::{Begun, Finished, Intent},
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
    if let SizeHint::Exact(size) = size {
        check_size(app, size)?;
    }
    let spare = app.next_uid().await?;
    match app.meta.begin_upload(uid, spare, app.storage.name()).await? {
        Begun::Ready(intent) => {
            let attempt = Attempt::new(app, intent);
            let content = receive(app, &attempt.intent.key, size, body).await?;
            check_md5(md5, &content.digests)?;
            // What has begun to take effect is brought to its end, even if the client is gone.
            let ending = app.background.spawn(store(attempt, uid, content));
            ending.await.map_err(Error::internal)?
        }
        Begun::Stored => {
            let stored = super::download_file::download_file(app, uid).await?;
            check_md5(md5, &stored.blob.digests).map_err(|_| already_stored())?;
            // Only compared: the writer is dropped and removes what it wrote.
            let content = receive(app, &stored.blob.key, size, body).await?;
            must_equal(&stored.blob.digests, &content.digests)
        }
        Begun::Unknown => Err(Error::new(ErrorCode::FileNotFound, "there is no file with this uid")),
    }
}

/// Content that has come in and is not published yet.
struct Received {
    writer: Box<dyn ObjectWriter>,
    digests: Digests,
    sniffed: Option<&'static str>,
}

async fn receive(
    app: &App,
    key: &Key,
    size: SizeHint,
    mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<Received> {
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
        check_size(app, received)?;
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
        let finished = if let Some(same) = same {
            let intent = unpublished.as_ref().map(|_| intent_id);
            let shared = app.meta.share_blob(uid, same.id, intent, content_type.clone()).await?;
            attempt.settled = shared == Finished::Stored && intent.is_some();
            shared
        } else {
            if let Some(writer) = unpublished.take() {
                writer.publish().await?;
            }
            let stored =
                app.meta.finish_upload(uid, intent_id, digests, sniffed, content_type.clone()).await?;
            attempt.settled = stored == Finished::Stored;
            stored
        };
        match finished {
            Finished::Stored => return Ok(()),
            Finished::Changed => {}
            Finished::Beaten => {
                let winner = super::download_file::download_file(&app, uid).await?;
                return must_equal(&winner.blob.digests, &digests);
            }
            Finished::Swept => {
                return Err(Error::unavailable("the upload was swept away while it was finishing"));
            }
        }
    }
    Err(Error::unavailable("content that is the same came and went too often"))
}

fn check_size(app: &App, size: u64) -> Result<()> {
    let max = app.limits.max_size;
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
    fn new(app: &Arc<App>, intent: Intent) -> Self {
        app.writing().insert(intent.blob_id);
        Self { app: app.clone(), intent, settled: false }
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
