//! Checks that a store received the bytes that were sent.
//!
//! For each object and part, a store returns checksums of the bytes that it received: a CRC-64, an
//! MD5 as `ETag`, or both. osproxy computes the same checksums of the bytes that it sends, and
//! compares them. The CRC is almost free. MD5 costs more than all other work together. So for large
//! content, osproxy computes an MD5 for this check only until the first response shows that the
//! store returns a CRC, and always after a response without a CRC.

use std::sync::atomic::{AtomicU8, Ordering};

use base64::{Engine, engine::general_purpose::STANDARD};
use crc_fast::CrcAlgorithm;
use http::HeaderMap;

use super::xml;
use crate::{Error, ErrorKind, Result};

/// The response header with the CRC-64 that a vendor computes.
#[derive(Clone, Copy)]
pub(crate) struct CrcHeader {
    /// Name of the header.
    pub(crate) name: &'static str,
    pub(crate) algorithm: CrcAlgorithm,
    /// Whether the value is the CRC as big-endian bytes in Base64. Otherwise, the value is a
    /// decimal number.
    pub(crate) is_base64: bool,
}

impl CrcHeader {
    fn parse(self, value: &str) -> Option<u64> {
        if !self.is_base64 {
            return value.parse().ok();
        }
        let bytes = STANDARD.decode(value).ok()?;
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

/// Checksums of the bytes that were sent.
pub(super) struct SentChecksums {
    pub(super) crc: u64,
    pub(super) md5: Option<[u8; 16]>,
}

/// Checksums that a store returned for the bytes it received.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReceivedChecksums {
    pub(super) tag: String,
    crc: Option<u64>,
    /// Whether the store encrypts the object with a key of its key service or of the customer. The
    /// tag is then not an MD5.
    is_opaque: bool,
}

impl ReceivedChecksums {
    pub(super) fn of(headers: &HeaderMap, crc: CrcHeader) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let encryption = header("x-amz-server-side-encryption")
            .or(header("x-oss-server-side-encryption"))
            .or(header("x-cos-server-side-encryption"));
        let is_opaque = encryption.is_some_and(|algorithm| algorithm != "AES256")
            || header("x-amz-server-side-encryption-customer-algorithm").is_some()
            || header("x-cos-server-side-encryption-customer-algorithm").is_some();
        Self {
            tag: header("etag").map(xml::tag).unwrap_or_default(),
            crc: header(crc.name).and_then(|value| crc.parse(value)),
            is_opaque,
        }
    }

    fn md5(&self) -> Option<[u8; 16]> {
        let mut md5 = [0; 16];
        let is_md5 = !self.is_opaque && hex::decode_to_slice(&self.tag, &mut md5).is_ok();
        is_md5.then_some(md5)
    }
}

/// Whether the responses of a store have a CRC, as seen so far.
#[derive(Default)]
pub(super) struct ChecksumSupport(AtomicU8);

const UNKNOWN: u8 = 0;
/// Every response so far had a CRC.
const ALWAYS_CRC: u8 = 1;
/// At least one response had no CRC.
const NOT_ALWAYS_CRC: u8 = 2;

impl ChecksumSupport {
    /// Whether the MD5 of the bytes must be computed to check the response.
    pub(super) fn needs_md5(&self) -> bool {
        self.0.load(Ordering::Relaxed) != ALWAYS_CRC
    }

    /// Compares the checksums from a store with those of the bytes that were sent. Fails with a
    /// retryable error if they differ, or if the response has only an MD5 and osproxy has not
    /// computed an MD5.
    ///
    /// A response that allows no check (no CRC, and a tag that is not an MD5) is accepted.
    pub(super) fn check(
        &self,
        sent: &SentChecksums,
        received: &ReceivedChecksums,
        backend: &'static str,
    ) -> Result<()> {
        let failed = |what: &'static str| {
            Error::new(ErrorKind::Other, backend, "write").with_message(what).mark_retryable()
        };
        match received.crc {
            Some(_) => {
                let _ = self.0.compare_exchange(UNKNOWN, ALWAYS_CRC, Ordering::Relaxed, Ordering::Relaxed);
            }
            None => self.0.store(NOT_ALWAYS_CRC, Ordering::Relaxed),
        }
        let has_other_md5 = received.md5().zip(sent.md5).is_some_and(|(theirs, ours)| theirs != ours);
        if received.crc.is_some_and(|crc| crc != sent.crc) || has_other_md5 {
            tracing::error!(backend, "checksum mismatch: the store received different bytes than were sent");
            return Err(failed("checksum mismatch: the store received different bytes than were sent"));
        }
        if received.crc.is_none() && received.md5().is_some() && sent.md5.is_none() {
            return Err(failed("the response has no CRC, but earlier responses had one"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use md5::{Digest, Md5};

    use super::*;
    use crate::{
        backends::{Cos, Oss, S3},
        object_http::Vendor,
    };

    const TEXT: &[u8] = b"123456789";

    fn sent<V: Vendor>(bytes: &[u8], with_md5: bool) -> SentChecksums {
        let crc = crc_fast::checksum(V::CRC.algorithm, bytes);
        SentChecksums { crc, md5: with_md5.then(|| Md5::digest(bytes).into()) }
    }

    fn received<V: Vendor>(headers: &[(&'static str, &str)]) -> ReceivedChecksums {
        let headers = headers.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        ReceivedChecksums::of(&headers.collect(), V::CRC)
    }

    fn check<V: Vendor>(name: &'static str, value: &str) {
        let (support, good) =
            (ChecksumSupport::default(), received::<V>(&[("etag", "\"x\""), (name, value)]));
        support.check(&sent::<V>(TEXT, true), &good, V::NAME).unwrap();
        assert!(!support.needs_md5(), "{value}");
        support.check(&sent::<V>(TEXT, false), &good, V::NAME).unwrap();
        let wrong = support.check(&sent::<V>(b"123456788", false), &good, V::NAME).unwrap_err();
        assert!(wrong.retryable);
    }

    /// The check values from the CRC catalogue, in the format of each vendor.
    #[test]
    fn the_crc_of_each_vendor_is_compared() {
        check::<S3>("x-amz-checksum-crc64nvme", &STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_be_bytes()));
        check::<Cos>("x-cos-hash-crc64ecma", "11051210869376104954");
        check::<Oss>("x-oss-hash-crc64ecma", "11051210869376104954");
    }

    #[test]
    fn the_md5_is_compared_if_the_response_has_no_crc() {
        let support = ChecksumSupport::default();
        assert!(support.needs_md5());
        let good = received::<S3>(&[("etag", "\"25F9E794323B453885F5181F1B624D0B\"")]);
        support.check(&sent::<S3>(TEXT, true), &good, "s3").unwrap();
        assert!(support.needs_md5());
        assert!(support.check(&sent::<S3>(b"123456788", true), &good, "s3").is_err());
        // Encrypted with a managed key: the tag is not an MD5.
        let opaque =
            [("etag", "\"25f9e794323b453885f5181f1b624d0b\""), ("x-amz-server-side-encryption", "aws:kms")];
        support.check(&sent::<S3>(b"123456788", true), &received::<S3>(&opaque), "s3").unwrap();
    }

    #[test]
    fn a_response_that_suddenly_has_no_crc_is_rejected_unless_an_md5_was_computed() {
        let support = ChecksumSupport::default();
        let crc = STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_be_bytes());
        let tag = ("etag", "\"25f9e794323b453885f5181f1b624d0b\"");
        let both = received::<S3>(&[tag, ("x-amz-checksum-crc64nvme", &crc)]);
        support.check(&sent::<S3>(TEXT, true), &both, "s3").unwrap();
        assert!(
            support.check(&sent::<S3>(TEXT, false), &received::<S3>(&[tag]), "s3").unwrap_err().retryable
        );
        assert!(support.needs_md5());
        support.check(&sent::<S3>(TEXT, false), &both, "s3").unwrap();
        assert!(support.needs_md5(), "responses do not always have a CRC");
    }
}
