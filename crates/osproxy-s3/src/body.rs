//! Bodies of requests: length, and the checksums that a client sends with them.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum::http::HeaderMap;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use osproxy_api::ErrorCode;
use osproxy_core::{
    Error,
    ops::{
        LateChecksums,
        upload_file::{ExpectedDigests, SizeHint},
    },
};
use s3s::{
    S3Result, TrailingHeaders,
    checksum::ChecksumHasher,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256},
    dto::{Checksum, StreamingBlob},
    s3_error,
    stream::ByteStream as _,
};

use crate::{
    attributes::Attributes,
    checksums::{self, ALGORITHMS, Algorithm},
    headers,
};

/// Bodies up to this size, in bytes, are read before they are stored, so that the checksums that
/// follow the body are known.
const SMALL: u64 = 64 << 10;

/// The names of the headers, or trailing headers, with checksums.
const TRAILERS: [&str; 5] = [
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
];

/// The body of a request.
pub(crate) struct Incoming {
    pub(crate) size: SizeHint,
    pub(crate) body: BoxStream<'static, Result<Bytes, Error>>,
    pub(crate) expected: ExpectedDigests,
    sums: Sums,
}

/// What the headers of a request say about its body.
#[derive(Default)]
pub(crate) struct Announced {
    pub(crate) length: Option<i64>,
    pub(crate) md5: Option<String>,
    pub(crate) checksums: Checksum,
    pub(crate) trailers: Option<TrailingHeaders>,
}

impl Incoming {
    /// Checks the headers, and reads a small body. The body fails with `DigestMismatch` at its end if
    /// it does not have the announced checksums.
    pub(crate) async fn read(
        body: Option<StreamingBlob>,
        announced: Announced,
        headers: &HeaderMap,
    ) -> S3Result<Self> {
        let Announced { length, md5, checksums, trailers } = announced;
        let expected = ExpectedDigests { md5: decode(md5.as_deref())?, ..ExpectedDigests::default() };
        let length = length.and_then(|length| u64::try_from(length).ok());
        // The file of a form has no header with its length.
        let is_form = headers::is_form(headers);
        let known = body.as_ref().filter(|_| is_form).and_then(|body| body.remaining_length().exact());
        // With aws-chunked, HTTP can be chunked too, and the length is signed in another header.
        let decoded = headers.get("x-amz-decoded-content-length").filter(|_| length.is_none());
        let decoded = decoded.and_then(|value| value.to_str().ok()?.parse().ok());
        let known = known.and_then(|known| u64::try_from(known).ok());
        let length = length.or(known).or(decoded);
        if length.is_none() {
            return Err(s3_error!(MissingContentLength));
        }
        let size = length.map_or(SizeHint::Unknown, SizeHint::Exact);
        let sums = Sums::default();
        let body = body.map_or_else(
            || stream::empty().boxed(),
            |body| body.map(|it| it.map_err(|error| broken(&error))).boxed(),
        );
        let hasher = Some(hasher(&checksums, headers));
        let checked = Checked { body, hasher, announced: Some((checksums, trailers)), sums: sums.clone() };
        let mut body = checked.boxed();
        if length.is_some_and(|length| length <= SMALL) {
            let mut all = BytesMut::new();
            while let Some(bytes) = body.next().await {
                all.extend_from_slice(&bytes.map_err(crate::errors::to_s3)?);
                if all.len() as u64 > SMALL {
                    return Err(s3_error!(IncompleteBody));
                }
            }
            body = stream::iter((!all.is_empty()).then(|| Ok(all.freeze()))).boxed();
        }
        Ok(Self { size, body, expected, sums })
    }

    /// The checksums of the body, once it was read.
    pub(crate) fn sums(&self) -> Sums {
        self.sums.clone()
    }
}

/// The checksums of a body.
#[derive(Clone, Default)]
pub(crate) struct Sums {
    known: Arc<OnceLock<Checksum>>,
    text: LateChecksums,
}

impl Sums {
    /// Returns the checksums that the client has sent; `None` until the whole body was read.
    pub(crate) fn get(&self) -> Option<Checksum> {
        self.known.get().cloned()
    }

    /// The checksums as text to store with a part, if there are any.
    pub(crate) fn text(&self) -> LateChecksums {
        self.text.clone()
    }

    fn set(&self, sums: Checksum) {
        let mut attributes = Attributes::default();
        attributes.set_checksums(&sums);
        if !attributes.checksums.is_empty() {
            let _ = self.text.set(attributes.checksums_to_text());
        }
        let _ = self.known.set(sums);
    }
}

/// Computes a checksum of content that the service reads itself.
pub(crate) fn hash(
    body: BoxStream<'static, Result<Bytes, Error>>,
    algorithm: Algorithm,
) -> (BoxStream<'static, Result<Bytes, Error>>, Sums) {
    let sums = Sums::default();
    let hasher = Some(algorithm.hasher());
    let checked = Checked { body, hasher, announced: None, sums: sums.clone() };
    (checked.boxed(), sums)
}

/// Compares a body with the digests in the headers of its request. Digests in trailing headers are
/// not compared.
pub(crate) struct DigestCheck {
    md5: Option<([u8; 16], Md5)>,
    checksum: Option<(Algorithm, String, ChecksumHasher)>,
}

impl DigestCheck {
    /// Fails with `InvalidRequest` if no digest is announced.
    pub(crate) fn of(headers: &HeaderMap) -> S3Result<Self> {
        let sent = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let checksum = ALGORITHMS
            .into_iter()
            .zip(TRAILERS)
            .find_map(|(algorithm, name)| Some((algorithm, sent(name)?.to_owned(), algorithm.hasher())));
        let md5 = decode(sent("content-md5"))?.map(|md5| (md5, Md5::new()));
        let follows = headers.contains_key("x-amz-trailer");
        if md5.is_none() && checksum.is_none() && !follows {
            return Err(s3_error!(InvalidRequest, "Missing required header for this request: Content-MD5"));
        }
        // The digests are those of the content, which comes in chunks with signatures.
        let is_chunked = sent("x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-"));
        Ok(if is_chunked { Self { md5: None, checksum: None } } else { Self { md5, checksum } })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some((_, hasher)) = &mut self.md5 {
            hasher.update(bytes);
        }
        if let Some((_, _, hasher)) = &mut self.checksum {
            hasher.update(bytes);
        }
    }

    /// Fails with `DigestMismatch` if the bytes have another digest.
    pub(crate) fn verify(self) -> Result<(), Error> {
        let is_md5 = self.md5.is_none_or(|(announced, hasher)| announced == hasher.finalize());
        let is_checksum = self.checksum.is_none_or(|(algorithm, announced, hasher)| {
            checksums::get(&hasher.finalize(), algorithm) == Some(&announced)
        });
        if is_md5 && is_checksum {
            return Ok(());
        }
        Err(Error::new(ErrorCode::DigestMismatch, "the body does not have the digest in the headers"))
    }
}

/// The error for a body that could not be read.
fn broken(error: &s3s::StdError) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<Error>() {
            return found.clone();
        }
        cause = error.source();
    }
    let message = error.to_string();
    let is_signature = ["ignature", "hunk"].iter().any(|word| message.contains(word));
    let code = if is_signature { ErrorCode::InvalidSignature } else { ErrorCode::IncompleteBody };
    Error::new(code, format!("the body could not be read: {message}"))
}

fn decode(md5: Option<&str>) -> S3Result<Option<[u8; 16]>> {
    let Some(text) = md5 else {
        return Ok(None);
    };
    let decoded = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    decoded.map(Some).ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."))
}

/// Computes the checksums that are announced in the headers or will follow the body.
fn hasher(sums: &Checksum, headers: &HeaderMap) -> ChecksumHasher {
    let trailer = headers.get("x-amz-trailer").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let follows = |name: &str| trailer.split(',').any(|word| word.trim().eq_ignore_ascii_case(name));
    ChecksumHasher {
        crc32: (sums.checksum_crc32.is_some() || follows(TRAILERS[0])).then(Crc32::new),
        crc32c: (sums.checksum_crc32c.is_some() || follows(TRAILERS[1])).then(Crc32c::new),
        crc64nvme: (sums.checksum_crc64nvme.is_some() || follows(TRAILERS[2])).then(Crc64Nvme::new),
        sha1: (sums.checksum_sha1.is_some() || follows(TRAILERS[3])).then(Sha1::new),
        sha256: (sums.checksum_sha256.is_some() || follows(TRAILERS[4])).then(Sha256::new),
    }
}

/// A body whose checksums are verified at its end.
struct Checked {
    body: BoxStream<'static, Result<Bytes, Error>>,
    hasher: Option<ChecksumHasher>,
    /// What the body must have: the checksums in the headers, or in the trailing headers.
    announced: Option<(Checksum, Option<TrailingHeaders>)>,
    sums: Sums,
}

impl Stream for Checked {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.body.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&bytes);
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(None) => match self.hasher.take() {
                Some(hasher) => Poll::Ready(self.verify(hasher.finalize()).err().map(Err)),
                None => Poll::Ready(None),
            },
            other => other,
        }
    }
}

impl Checked {
    fn verify(&self, computed: Checksum) -> Result<(), Error> {
        let Some((announced, trailers)) = &self.announced else {
            self.sums.set(computed);
            return Ok(());
        };
        let pairs = [
            (&announced.checksum_crc32, &computed.checksum_crc32),
            (&announced.checksum_crc32c, &computed.checksum_crc32c),
            (&announced.checksum_crc64nvme, &computed.checksum_crc64nvme),
            (&announced.checksum_sha1, &computed.checksum_sha1),
            (&announced.checksum_sha256, &computed.checksum_sha256),
        ];
        for (name, (announced, computed)) in TRAILERS.iter().zip(pairs) {
            let Some(computed) = computed else { continue };
            let trailing = trailers.as_ref().and_then(|trailers| {
                trailers.read(|headers| headers.get(*name).and_then(|it| it.to_str().ok()).map(str::to_owned))
            });
            let announced = announced.clone().or(trailing.flatten());
            // A trailing header that was announced must arrive.
            if announced.as_deref().map(str::trim) != Some(computed) {
                let message = format!("the body does not have the checksum in {name}");
                return Err(Error::new(ErrorCode::DigestMismatch, message));
            }
        }
        self.sums.set(computed);
        Ok(())
    }
}
