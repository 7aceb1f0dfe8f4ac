//! Proof of possession: a file gets known content if the client proves that it has this content.

use std::{iter, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use osproxy_api::ErrorCode;
use osproxy_meta::Blob;
use osproxy_storage::ErrorKind;
use osproxy_types::uid::Uid;

use super::UploadOps;
use crate::{Error, Result, boxed_future, session::share_known_content};

/// Lifetime of a challenge.
const CHALLENGE_TTL: Duration = Duration::from_mins(1);
/// Number of ranges in a challenge. A client that has only nine tenths of the content can answer
/// about one in 29 challenges.
const RANGE_COUNT: u64 = 32;
/// Length of each range, in bytes.
const RANGE_BYTES: u64 = 4096;
/// Maximum concurrent reads of ranges for one proof.
const MAX_READS: usize = 8;

/// A challenge for a client to prove that it has some content. To answer, the client concatenates
/// the bytes in `ranges` and computes their BLAKE3 hash, keyed with `nonce`.
#[derive(Clone, Debug)]
pub struct PossessionChallenge {
    /// The key of the hash. Every challenge has a different key.
    pub nonce: [u8; 32],
    /// Byte ranges, in the order in which they are hashed. They may overlap.
    pub ranges: Vec<Range<u64>>,
    /// When the challenge expires, in milliseconds since the Unix epoch.
    pub expires_at: i64,
}

/// Creates a challenge for the pending file `uid` about the content of `blob`.
pub(super) async fn create_challenge(
    uploads: &UploadOps,
    uid: Uid,
    blob: &Blob,
) -> Result<PossessionChallenge> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(Error::internal)?;
    let osproxy_meta::ChallengeRecord { expires_at, .. } =
        uploads.meta.uploads.create_challenge(uid, blob.id, nonce, CHALLENGE_TTL).await?;
    Ok(PossessionChallenge { nonce, ranges: ranges(&nonce, blob.digests.size), expires_at })
}

/// Returns the store of the content that the challenge of `uid` is about, if this node does not
/// have that store.
#[boxed_future]
pub async fn content_elsewhere(uploads: &UploadOps, uid: Uid) -> Result<Option<String>> {
    let Some(challenge) = uploads.meta.uploads.challenge(uid).await? else {
        return Ok(None);
    };
    let blob = uploads.meta.blobs.stored(challenge.blob_id).await?;
    Ok(blob.map(|blob| blob.store).filter(|store| !uploads.stores.has(store)))
}

/// Checks `proof`, the answer to the challenge of `uid`; each challenge can be answered once. If
/// the answer is correct, the known content becomes the content of the file. Otherwise fails with
/// `DigestMismatch`, or with `ChallengeGone` if there is no challenge, and the client must send the
/// content.
///
/// Also succeeds if the file is complete and has no challenge any more, so a client that missed the
/// response can repeat the request.
#[boxed_future]
pub async fn prove_possession(uploads: &Arc<UploadOps>, uid: Uid, proof: [u8; 32]) -> Result<()> {
    let Some(challenge) = uploads.meta.uploads.challenge(uid).await? else {
        return match uploads.meta.files.state(uid).await? {
            Some(state) if state.is_complete() => Ok(()),
            _ => Err(challenge_gone()),
        };
    };
    let blob = uploads.meta.blobs.stored(challenge.blob_id).await?.ok_or_else(challenge_gone)?;
    // Computed before the challenge is deleted, so that the client can use its challenge again
    // after an outage of the store.
    let expected = expected_proof(uploads, &blob, &challenge.nonce).await?.ok_or_else(challenge_gone)?;
    if uploads.meta.uploads.take_challenge(uid).await? != Some(challenge) {
        return Err(challenge_gone());
    }
    // Comparing `blake3::Hash` takes constant time.
    if expected != blake3::Hash::from_bytes(proof) {
        let message = "the answer to the challenge is wrong; send the content";
        return Err(Error::new(ErrorCode::DigestMismatch, message));
    }
    share_known_content(uploads, uid, blob).await
}

fn challenge_gone() -> Error {
    let message = "the challenge was already answered or has expired; send the content";
    Error::new(ErrorCode::ChallengeGone, message)
}

/// Derives the ranges of a challenge from its nonce.
fn ranges(nonce: &[u8; 32], size: u64) -> Vec<Range<u64>> {
    if size <= RANGE_COUNT * RANGE_BYTES {
        return iter::once(0..size).collect();
    }
    let mut numbers = blake3::Hasher::new_keyed(nonce).update(b"ranges").finalize_xof();
    let mut draw = || {
        let mut number = [0; 8];
        numbers.fill(&mut number);
        let start = u64::from_le_bytes(number) % (size - RANGE_BYTES + 1);
        start..start + RANGE_BYTES
    };
    (0..RANGE_COUNT).map(|_| draw()).collect()
}

/// Computes the right answer to a challenge; `None` if the content is gone.
async fn expected_proof(uploads: &UploadOps, blob: &Blob, nonce: &[u8; 32]) -> Result<Option<blake3::Hash>> {
    let store = uploads.stores.get(&blob.store)?;
    let read = |range: Range<u64>| async {
        let reader = store.open(&blob.key, range).await?;
        reader.try_collect::<Vec<Bytes>>().await
    };
    let mut pieces = stream::iter(ranges(nonce, blob.digests.size)).map(read).buffered(MAX_READS);
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
        for size in [0, 1, RANGE_COUNT * RANGE_BYTES] {
            assert!(ranges(&[1; 32], size).into_iter().eq(iter::once(0..size)));
        }
        for size in [RANGE_COUNT * RANGE_BYTES + 1, 5 << 40] {
            let drawn = ranges(&[1; 32], size);
            assert_eq!(drawn.len(), 32);
            assert!(drawn.iter().all(|range| range.end <= size && range.end - range.start == RANGE_BYTES));
            assert_eq!(drawn, ranges(&[1; 32], size));
            assert_ne!(drawn, ranges(&[2; 32], size));
        }
    }
}
