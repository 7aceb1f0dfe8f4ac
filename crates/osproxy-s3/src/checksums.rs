//! Checksums of content that was received in parts, computed from those of the parts.

use base64::{Engine, prelude::BASE64_STANDARD};
use crc_fast::{CrcAlgorithm, checksum_combine};
use osproxy_core::ops::object_uploads::UploadedPart;
use s3s::{
    S3Result,
    checksum::ChecksumHasher,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256},
    dto::{Checksum, ChecksumAlgorithm, ChecksumType, CompletedPart},
    s3_error,
};
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;

/// An algorithm that AWS has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// All algorithms.
pub(crate) const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

impl Algorithm {
    /// The algorithm of a header; `None` if AWS has none of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        ALGORITHMS.into_iter().find(|it| it.name().eq_ignore_ascii_case(name))
    }

    /// The algorithm that a request asks for.
    pub(crate) fn of_request(algorithm: Option<&ChecksumAlgorithm>) -> S3Result<Option<Self>> {
        let unknown = || s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported");
        algorithm.map(|name| Self::parse(name.as_str()).ok_or_else(unknown)).transpose()
    }

    /// The name in headers, in lower case.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "crc32",
            Self::Crc32c => "crc32c",
            Self::Crc64Nvme => "crc64nvme",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    pub(crate) fn to_dto(self) -> ChecksumAlgorithm {
        ChecksumAlgorithm::from(self.name().to_uppercase())
    }

    /// Hashes content with this algorithm alone.
    pub(crate) fn hasher(self) -> ChecksumHasher {
        let is = |algorithm| self == algorithm;
        ChecksumHasher {
            crc32: is(Self::Crc32).then(Crc32::new),
            crc32c: is(Self::Crc32c).then(Crc32c::new),
            crc64nvme: is(Self::Crc64Nvme).then(Crc64Nvme::new),
            sha1: is(Self::Sha1).then(Sha1::new),
            sha256: is(Self::Sha256).then(Sha256::new),
        }
    }

    /// Length of a checksum in Base64.
    pub(crate) fn text_length(self) -> usize {
        self.length().div_ceil(3) * 4
    }

    /// Length of a checksum in bytes.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// The parameters of a CRC; `None` for other algorithms.
    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }
}

/// The checksum of this algorithm.
pub(crate) fn get(sums: &Checksum, algorithm: Algorithm) -> Option<&str> {
    let sum = match algorithm {
        Algorithm::Crc32 => &sums.checksum_crc32,
        Algorithm::Crc32c => &sums.checksum_crc32c,
        Algorithm::Crc64Nvme => &sums.checksum_crc64nvme,
        Algorithm::Sha1 => &sums.checksum_sha1,
        Algorithm::Sha256 => &sums.checksum_sha256,
    };
    sum.as_deref()
}

/// The checksum that a multipart upload will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadChecksum {
    pub(crate) algorithm: Algorithm,
    /// Whether it is the checksum of the checksums of the parts, not of the content.
    pub(crate) is_composite: bool,
}

impl UploadChecksum {
    /// What the headers of a request to create an upload ask for.
    pub(crate) fn of_request(
        algorithm: Option<&ChecksumAlgorithm>,
        kind: Option<&ChecksumType>,
    ) -> S3Result<Option<Self>> {
        let Some(algorithm) = Algorithm::of_request(algorithm)? else {
            return match kind {
                None => Ok(None),
                Some(_) => Err(s3_error!(InvalidRequest, "The checksum type needs a checksum algorithm")),
            };
        };
        let is_composite = match kind.map(ChecksumType::as_str) {
            None => algorithm != Algorithm::Crc64Nvme,
            Some(ChecksumType::COMPOSITE) => true,
            Some(ChecksumType::FULL_OBJECT) => false,
            Some(_) => return Err(s3_error!(InvalidRequest, "The checksum type is unknown")),
        };
        let is_possible =
            if is_composite { algorithm != Algorithm::Crc64Nvme } else { algorithm.crc().is_some() };
        if !is_possible {
            return Err(s3_error!(
                InvalidRequest,
                "The checksum type cannot be used with the checksum algorithm {}",
                algorithm.name()
            ));
        }
        Ok(Some(Self { algorithm, is_composite }))
    }

    pub(crate) fn kind(self) -> ChecksumType {
        let kind = if self.is_composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
        ChecksumType::from_static(kind)
    }

    /// Computes the checksum of content from its parts; `None` if that of a part is unknown.
    fn of_parts(self, parts: &[&UploadedPart]) -> Option<String> {
        let sums = parts.iter().map(|part| {
            let sums = Attributes::parse_checksums(part.checksums.as_deref());
            BASE64_STANDARD.decode(get(&sums, self.algorithm)?).ok()
        });
        let sums: Vec<_> = sums.collect::<Option<_>>()?;
        if self.is_composite {
            let mut hasher = self.algorithm.hasher();
            hasher.update(&sums.concat());
            let sum = hasher.finalize();
            return Some(format!("{}-{}", get(&sum, self.algorithm)?, parts.len()));
        }
        let crc = self.algorithm.crc()?;
        let number = |sum: &[u8]| sum.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let mut all = number(sums.first()?);
        for (part, sum) in parts.iter().zip(&sums).skip(1) {
            all = checksum_combine(crc, all, number(sum), part.size);
        }
        let bytes = all.to_be_bytes();
        Some(BASE64_STANDARD.encode(bytes.get(bytes.len() - self.algorithm.length()..)?))
    }
}

/// Returns the stored parts that a request to complete an upload names, if they have the checksums in
/// the request.
pub(crate) fn select<'s>(
    completed: &[CompletedPart],
    stored: &'s [UploadedPart],
) -> S3Result<Vec<&'s UploadedPart>> {
    let mut parts = Vec::with_capacity(completed.len());
    for part in completed {
        let number = part.part_number.unwrap_or(0).unsigned_abs();
        let missing = || s3_error!(InvalidPart, "One or more of the specified parts could not be found");
        let found = stored.binary_search_by_key(&number, |part| part.number).ok();
        let found = found.and_then(|found| stored.get(found)).ok_or_else(missing)?;
        let known = Attributes::parse_checksums(found.checksums.as_deref());
        let sent = crate::ops::checksums_in!(part);
        let differs = |it: &Algorithm| get(&sent, *it).is_some_and(|sum| get(&known, *it) != Some(sum));
        if ALGORITHMS.iter().any(differs) {
            return Err(missing());
        }
        parts.push(found);
    }
    Ok(parts)
}

/// Returns the checksum of content that was received in `parts`. `wanted` is the checksum that was
/// chosen for the upload, and `whole` that in the request to complete it, which must be right. Returns
/// `None` if the checksum of a part is unknown.
pub(crate) fn of_content(
    wanted: Option<UploadChecksum>,
    parts: &[&UploadedPart],
    whole: &Checksum,
) -> S3Result<Option<(UploadChecksum, String)>> {
    let sent = ALGORITHMS.into_iter().find(|it| get(whole, *it).is_some());
    let is_composite = whole.checksum_type.as_ref().is_some_and(|it| it.as_str() == ChecksumType::COMPOSITE);
    let Some(checksum) = wanted.or(sent.map(|algorithm| UploadChecksum { algorithm, is_composite })) else {
        return Ok(None);
    };
    if whole.checksum_type.as_ref().is_some_and(|kind| *kind != checksum.kind())
        || sent.is_some_and(|sent| sent != checksum.algorithm)
    {
        return Err(s3_error!(
            InvalidRequest,
            "The upload was created for another checksum or checksum type"
        ));
    }
    let computed = checksum.of_parts(parts);
    match get(whole, checksum.algorithm) {
        Some(_) if computed.is_none() => {
            Err(s3_error!(InvalidRequest, "The checksum cannot be compared: parts have no such checksum"))
        }
        Some(sum) if computed.as_deref() != Some(sum) => Err(s3_error!(
            BadDigest,
            "The {} you specified did not match the calculated checksum.",
            checksum.algorithm.name()
        )),
        _ => Ok(computed.map(|computed| (checksum, computed))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, content: &[u8]) -> UploadedPart {
        let mut attributes = Attributes::default();
        for algorithm in ALGORITHMS {
            let mut hasher = algorithm.hasher();
            hasher.update(content);
            let sum = get(&hasher.finalize(), algorithm).unwrap().to_owned();
            attributes.checksums.insert(algorithm.name().to_owned(), sum);
        }
        let checksums = Some(attributes.checksums_to_text());
        UploadedPart { number, size: content.len() as u64, md5: None, stored_at: 0, checksums }
    }

    #[test]
    fn crcs_of_parts_combine_to_that_of_the_content() {
        let content: Vec<_> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        let (one, rest) = content.split_at(17_001);
        let (two, three) = rest.split_at(1);
        let parts = [part(1, one), part(2, two), part(3, three)];
        let parts: Vec<_> = parts.iter().collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let mut hasher = algorithm.hasher();
            hasher.update(&content);
            let expected = get(&hasher.finalize(), algorithm).map(str::to_owned);
            assert!(expected.is_some());
            assert_eq!(UploadChecksum { algorithm, is_composite: false }.of_parts(&parts), expected);
        }
    }

    #[test]
    fn composite_checksums_are_as_those_of_aws() {
        let parts = [part(1, b"one"), part(2, b"two")];
        let parts: Vec<_> = parts.iter().collect();
        let sums = [Sha256::checksum(b"one"), Sha256::checksum(b"two")].concat();
        let expected = format!("{}-2", BASE64_STANDARD.encode(Sha256::checksum(&sums)));
        let checksum = UploadChecksum { algorithm: Algorithm::Sha256, is_composite: true };
        assert_eq!(checksum.of_parts(&parts), Some(expected));
    }

    #[test]
    fn combinations_that_aws_refuses_are_refused() {
        let ask = |algorithm: &'static str, kind: Option<&'static str>| {
            let (algorithm, kind) =
                (ChecksumAlgorithm::from_static(algorithm), kind.map(ChecksumType::from_static));
            UploadChecksum::of_request(Some(&algorithm), kind.as_ref())
        };
        assert!(ask("SHA256", Some("FULL_OBJECT")).is_err());
        assert!(ask("CRC64NVME", Some("COMPOSITE")).is_err());
        assert!(ask("MD5", None).is_err());
        assert_eq!(ask("CRC64NVME", None).unwrap().map(|it| it.is_composite), Some(false));
        assert_eq!(ask("CRC32", None).unwrap().map(|it| it.is_composite), Some(true));
    }
}
