//! The parts that the content of an object was received in. Their rows are gone when the parts are
//! merged, so the object keeps the sizes, and the checksums that its own checksum is made of.

use std::ops::Range;

use osproxy_core::ops::object_uploads::UploadedPart;
use serde::{Deserialize, Serialize};

use crate::{
    attributes::Attributes,
    checksums::{self, Algorithm, UploadChecksum},
};

/// Maximum number of runs of parts with the same size. Clients send parts of one size, and a last one.
const MAX_RUNS: usize = 256;
/// Maximum length of the checksums of all parts, as text.
const MAX_SUMS: usize = 16 << 10;

/// The parts of an object. At most about 20 KiB as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartList {
    /// A size in bytes, and how many parts in a row have it.
    sizes: Vec<(u64, u64)>,
    /// The checksums of the parts, each in Base64, one after another. Empty if the checksum of the object is
    /// not made of them, or if they are too many.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    sums: String,
}

impl PartList {
    /// Describes parts. Returns `None` if their sizes are too different.
    pub(crate) fn of(parts: &[&UploadedPart], checksum: Option<UploadChecksum>) -> Option<Self> {
        let mut sizes: Vec<(u64, u64)> = Vec::new();
        for part in parts {
            match sizes.last_mut() {
                Some((size, count)) if *size == part.size => *count += 1,
                _ => sizes.push((part.size, 1)),
            }
        }
        if sizes.len() > MAX_RUNS {
            return None;
        }
        let algorithm = checksum.filter(|it| it.is_composite).map(|it| it.algorithm);
        let algorithm = algorithm.filter(|it| it.text_length() * parts.len() <= MAX_SUMS);
        let sums = algorithm.and_then(|algorithm| {
            let sums = parts.iter().map(|part| Attributes::parse_checksums(part.checksums.as_deref()));
            sums.map(|sums| checksums::get(&sums, algorithm).map(str::to_owned)).collect::<Option<String>>()
        });
        Some(Self { sizes, sums: sums.unwrap_or_default() })
    }

    /// Whether this describes content of `size` bytes in `count` parts.
    pub(crate) fn describes(&self, size: u64, count: u64) -> bool {
        let sum = |of: fn(&(u64, u64)) -> Option<u64>| {
            self.sizes.iter().try_fold(0_u64, |sum, run| sum.checked_add(of(run)?))
        };
        sum(|run| Some(run.1)) == Some(count) && sum(|run| run.0.checked_mul(run.1)) == Some(size)
    }

    /// Returns the bytes of the parts, in their order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let sizes = self.sizes.iter().flat_map(|(size, count)| (0..*count).map(|_| *size));
        let mut end = 0;
        sizes.map(move |size| {
            let start = end;
            end += size;
            start..end
        })
    }

    /// Returns the checksum of the part with this index, in Base64.
    fn sum(&self, index: usize, algorithm: Algorithm) -> Option<&str> {
        let length = algorithm.text_length();
        self.sums.get(index.checked_mul(length)?..)?.get(..length)
    }

    /// Forgets the checksums, because the object gets another one.
    pub(crate) fn without_sums(self) -> Self {
        Self { sums: String::new(), ..self }
    }
}

impl Attributes {
    /// Returns the checksum of the part with this index, if it is known.
    pub(crate) fn checksum_of_part(&self, index: usize) -> Option<Self> {
        let checksum = self.upload_checksum?;
        let sum = self.parts.as_ref()?.sum(index, checksum.algorithm)?.to_owned();
        let checksums = [(checksum.algorithm.name().to_owned(), sum)].into();
        Some(Self { checksums, upload_checksum: self.upload_checksum, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};

    use super::*;

    fn part(number: u32, size: u64) -> UploadedPart {
        let mut attributes = Attributes::default();
        let sum = BASE64_STANDARD.encode(number.to_be_bytes());
        attributes.checksums.insert("crc32".to_owned(), sum);
        let checksums = Some(attributes.checksums_to_text());
        UploadedPart { number, size, md5: None, stored_at: 0, checksums }
    }

    fn list(parts: &[UploadedPart], is_composite: bool) -> Option<PartList> {
        let checksum = UploadChecksum { algorithm: Algorithm::Crc32, is_composite };
        PartList::of(&parts.iter().collect::<Vec<_>>(), Some(checksum))
    }

    #[test]
    fn parts_have_ranges_and_checksums() {
        let parts = [part(1, 5), part(2, 5), part(3, 0), part(4, 7)];
        let list = list(&parts, true).unwrap();
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<PartList>(&text).unwrap(), list);
        assert_eq!(list.ranges().collect::<Vec<_>>(), [0..5, 5..10, 10..10, 10..17]);
        assert!(list.describes(17, 4) && !list.describes(17, 3) && !list.describes(16, 4));
        let attributes = Attributes {
            upload_checksum: Some(UploadChecksum { algorithm: Algorithm::Crc32, is_composite: true }),
            parts: Some(list),
            ..Attributes::default()
        };
        let sum = |index| attributes.checksum_of_part(index).map(|it| it.checksums["crc32"].clone());
        assert_eq!((sum(3).as_deref(), sum(4)), (Some("AAAABA=="), None));
    }

    #[test]
    fn lists_are_bounded() {
        let many: Vec<_> = (1..=10_000).map(|number| part(number, 5 << 30)).collect();
        let known = list(&many, true).unwrap();
        assert!(known.sums.is_empty() && known.describes((5 << 30) * 10_000, 10_000));
        assert_eq!(list(&many[..2048], true).unwrap().sums.len(), 16 << 10);
        assert!(list(&many[..2048], false).unwrap().sums.is_empty());
        let different: Vec<_> = (1..=257).map(|number| part(number, u64::from(number))).collect();
        assert_eq!(list(&different, false), None);
        assert!(list(&different[1..], false).is_some());
    }
}
