//! Size limits of parts and objects, in bytes.

/// Minimum part size; the last part may be smaller.
pub(super) const MIN_PART: u64 = 5 << 20;
/// Maximum size of a part, and of an object sent in one request.
pub(super) const MAX_PART: u64 = 5 << 30;
/// Maximum size of small content. Small content of a known size is buffered until it is published,
/// so that a failed request can be sent again.
pub(super) const MAX_BUFFERED: u64 = 1 << 20;
/// Size of the first part if the content size is not known. The writer buffers this part in memory.
pub const FIRST_PART: u64 = 8 << 20;
/// The part size doubles after each group of this many parts.
const DOUBLED_AFTER: u32 = 1000;
/// Maximum number of doublings.
const DOUBLINGS: u32 = 4;
/// Maximum part number.
pub(super) const MAX_PARTS: u32 = 10_000;

/// Preferred size of part `number` for content of unknown size. If memory is short, parts are
/// smaller. Later parts are larger, so that small content needs little memory, and 10,000 parts
/// hold 867 GiB.
pub(super) fn part_size_of_unknown(number: u32) -> u64 {
    FIRST_PART << (number.saturating_sub(1) / DOUBLED_AFTER).min(DOUBLINGS)
}

/// Part size for content of `size` bytes that does not fit into one request; the last part may be
/// smaller.
pub(super) fn part_size_of_known(size: u64) -> u64 {
    size.div_ceil(MAX_PARTS.into()).next_multiple_of(1 << 20).max(64 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exceeds the maximum object size of S3, which is 50 TB.
    const LARGEST: u64 = 48 << 40;

    #[test]
    fn content_of_any_known_size_fits_into_the_parts() {
        for size in [MAX_PART + 1, 5 << 40, (5 << 40) + 1, LARGEST] {
            let part = part_size_of_known(size);
            assert!((MIN_PART..=MAX_PART).contains(&part), "{size}");
            assert!(size.div_ceil(part) <= u64::from(MAX_PARTS), "{size}");
        }
    }

    #[test]
    fn part_sizes_of_unknown_content_start_small_and_grow() {
        let sizes = (1..=MAX_PARTS).map(part_size_of_unknown);
        assert!(sizes.clone().all(|size| (MIN_PART..=MAX_PART).contains(&size)));
        assert!(sizes.clone().all(|size| size <= 128 << 20));
        assert!(sizes.sum::<u64>() >= 867 << 30);
        assert_eq!(part_size_of_unknown(1000), 8 << 20);
        assert_eq!(part_size_of_unknown(1001), 16 << 20);
    }
}
