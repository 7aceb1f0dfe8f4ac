//! Have a file of content that is stored, by showing that one has it.

use std::{iter, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use osproxy_api::ErrorCode;
use osproxy_storage::ErrorKind;

use super::upload_file;
use crate::{
    Error, Result,
    app::App,
    meta::{self, Blob, FileState},
    uid::Uid,
};

/// How long a challenge can be answered.
const HOLDS: Duration = Duration::from_mins(1);
/// How many pieces of the content are asked for. Whoever has nine tenths of it answers right once in 29 times.
const PIECES: u64 = 32;
/// Bytes of each of them.
const PIECE: u64 = 4096;
/// How many of them are read at the same time.
const PARALLEL: usize = 8;

/// What has to be told of content: the BLAKE3, keyed with the nonce, of the bytes in these ranges, one after the other.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The key. No two challenges have the same.
    pub nonce: [u8; 32],
    /// Where the bytes lie, in the order in which they are digested. They may overlap.
    pub ranges: Vec<Range<u64>>,
    /// From when on the challenge cannot be answered, in milliseconds since the Unix epoch.
    pub expires_at: i64,
}

/// Asks whoever wants the file `uid`, which waits for its content, to show that they have that of `blob`.
pub(super) async fn challenge(app: &App, uid: Uid, blob: &Blob) -> Result<Challenge> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(Error::internal)?;
    let meta::Challenge { expires_at, .. } = app.meta.create_challenge(uid, blob.id, nonce, HOLDS).await?;
    Ok(Challenge { nonce, ranges: ranges(&nonce, blob.digests.size), expires_at })
}

/// The store with the content that `uid` was challenged about, if another node has it at hand and this one has not.
pub async fn content_elsewhere(app: &App, uid: Uid) -> Result<Option<String>> {
    let Some(challenge) = app.meta.challenge(uid).await? else {
        return Ok(None);
    };
    let blob = app.meta.stored_blob(challenge.blob_id).await?;
    Ok(blob.map(|blob| blob.backend).filter(|store| !app.stores.has(store)))
}

/// Takes the answer to the challenge of `uid`, once. If it is right, the file has its content from then on; else the
/// content has to be sent. An answer that comes again, because the first one's success was not heard of, is a success.
pub async fn prove_possession(app: &Arc<App>, uid: Uid, proof: [u8; 32]) -> Result<()> {
    let Some(challenge) = app.meta.challenge(uid).await? else {
        return match app.meta.file_state(uid).await? {
            Some(FileState::Stored) => Ok(()),
            _ => Err(gone()),
        };
    };
    let blob = app.meta.stored_blob(challenge.blob_id).await?.ok_or_else(gone)?;
    // Before the challenge is used up: a store that is away for a moment costs nobody anything.
    let expected = expected(app, &blob, &challenge.nonce).await?.ok_or_else(gone)?;
    if app.meta.take_challenge(uid).await? != Some(challenge) {
        return Err(gone());
    }
    // Compared in constant time.
    if expected != blake3::Hash::from_bytes(proof) {
        let message = "the content is not what was asked for; send it";
        return Err(Error::new(ErrorCode::DigestMismatch, message));
    }
    upload_file::share(app, uid, blob).await
}

fn gone() -> Error {
    let message =
        "there is no challenge to answer: it was answered, or is older than a minute; send the content";
    Error::new(ErrorCode::ChallengeGone, message)
}

/// Draws what is asked for.
fn ranges(nonce: &[u8; 32], size: u64) -> Vec<Range<u64>> {
    if size <= PIECES * PIECE {
        return iter::once(0..size).collect();
    }
    let mut numbers = blake3::Hasher::new_keyed(nonce).update(b"ranges").finalize_xof();
    let mut draw = || {
        let mut number = [0; 8];
        numbers.fill(&mut number);
        let start = u64::from_le_bytes(number) % (size - PIECE + 1);
        start..start + PIECE
    };
    (0..PIECES).map(|_| draw()).collect()
}

/// What the right answer is; `None` when the content is gone.
async fn expected(app: &App, blob: &Blob, nonce: &[u8; 32]) -> Result<Option<blake3::Hash>> {
    let store = app.stores.get(&blob.backend)?;
    let read = |range: Range<u64>| async {
        let reader = store.open(&blob.key, range).await?;
        reader.try_collect::<Vec<Bytes>>().await
    };
    let mut pieces = stream::iter(ranges(nonce, blob.digests.size)).map(read).buffered(PARALLEL);
    let mut hasher = blake3::Hasher::new_keyed(nonce);
    loop {
        match pieces.try_next().await {
            Ok(Some(piece)) => piece.iter().for_each(|bytes| {
                hasher.update(bytes);
            }),
            Ok(None) => return Ok(Some(hasher.finalize())),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Truncated) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_within_the_content_and_differ_by_nonce() {
        for size in [0, 1, PIECES * PIECE] {
            assert!(ranges(&[1; 32], size).into_iter().eq(iter::once(0..size)));
        }
        for size in [PIECES * PIECE + 1, 5 << 40] {
            let drawn = ranges(&[1; 32], size);
            assert_eq!(drawn.len(), 32);
            assert!(drawn.iter().all(|range| range.end <= size && range.end - range.start == PIECE));
            assert_eq!(drawn, ranges(&[1; 32], size));
            assert_ne!(drawn, ranges(&[2; 32], size));
        }
    }
}
