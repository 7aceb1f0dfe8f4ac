//! Digests of bodies, which clients send to detect damage on the way.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use md5::Md5;
use osproxy_api::ErrorCode;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The digest of a body, as the client states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyDigest {
    /// MD5.
    Md5([u8; 16]),
    /// SHA-1. Only detects damage in transit, because SHA-1 has known collisions.
    Sha1([u8; 20]),
    /// SHA-256.
    Sha256([u8; 32]),
    /// BLAKE3.
    Blake3([u8; 32]),
}

/// Passes on a body, and fails at its end with `DigestMismatch` unless it has the expected digest.
pub(crate) fn verify_body(
    body: BoxStream<'_, Result<Bytes>>,
    expected: BodyDigest,
) -> BoxStream<'_, Result<Bytes>> {
    stream::try_unfold((body, BodyHasher::new(expected)), async |(mut body, mut hasher)| {
        let Some(bytes) = body.try_next().await? else {
            return hasher.check().map(|()| None);
        };
        hasher.update(&bytes);
        Ok(Some((bytes, (body, hasher))))
    })
    .boxed()
}

/// Computes the digest of a body.
pub(super) struct BodyHasher {
    expected: BodyDigest,
    state: State,
}

enum State {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl BodyHasher {
    pub(super) fn new(expected: BodyDigest) -> Self {
        let state = match expected {
            BodyDigest::Md5(_) => State::Md5(Md5::new()),
            BodyDigest::Sha1(_) => State::Sha1(Sha1::new()),
            BodyDigest::Sha256(_) => State::Sha256(Sha256::new()),
            BodyDigest::Blake3(_) => State::Blake3(Box::default()),
        };
        Self { expected, state }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// Fails with `DigestMismatch` unless the body has the expected digest.
    pub(super) fn check(self) -> Result<()> {
        let found = match self.state {
            State::Md5(state) => BodyDigest::Md5(state.finalize().into()),
            State::Sha1(state) => BodyDigest::Sha1(state.finalize().into()),
            State::Sha256(state) => BodyDigest::Sha256(state.finalize().into()),
            State::Blake3(state) => BodyDigest::Blake3(state.finalize().into()),
        };
        if found == self.expected {
            return Ok(());
        }
        Err(Error::new(ErrorCode::DigestMismatch, "the body does not have the expected checksum"))
    }
}
