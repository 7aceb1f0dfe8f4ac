//! What fits into what. All sizes in bytes.

/// Smallest part of an upload but for the last one.
pub(super) const MIN_PART: u64 = 5 << 20;
/// Largest part, and largest object that is sent in one piece.
pub(super) const MAX_PART: u64 = 5 << 30;
/// Content up to this size is kept until it is published, so that it can be sent again.
pub(super) const KEPT: u64 = 1 << 20;
/// What is held at first of content whose size is not known: as much as one part of it has.
pub const FIRST_PART: u64 = 8 << 20;
/// After so many parts they double in size.
const DOUBLED_AFTER: u32 = 1000;
/// How often they double at most.
const DOUBLINGS: u32 = 4;
/// Highest number of a part.
pub(super) const MAX_PARTS: u32 = 10_000;

/// The size that part `number` of content should have whose size is not known, if there is memory for it: what is not large is
/// cut small, and all 10,000 parts together hold 867 GiB.
pub(super) fn unknown_part(number: u32) -> u64 {
    FIRST_PART << (number.saturating_sub(1) / DOUBLED_AFTER).min(DOUBLINGS)
}

/// The size of all parts, but for the last one, of content of `size` bytes that does not fit into one.
pub(super) fn known_part(size: u64) -> u64 {
    size.div_ceil(MAX_PARTS.into()).next_multiple_of(1 << 20).max(64 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than S3 takes: 50 TB.
    const LARGEST: u64 = 48 << 40;

    #[test]
    fn content_of_any_size_fits() {
        for size in [MAX_PART + 1, 5 << 40, (5 << 40) + 1, LARGEST] {
            let part = known_part(size);
            assert!((MIN_PART..=MAX_PART).contains(&part), "{size}");
            assert!(size.div_ceil(part) <= u64::from(MAX_PARTS), "{size}");
        }
    }

    #[test]
    fn content_of_unknown_size_fits_and_is_cut_small_at_first() {
        let sizes = (1..=MAX_PARTS).map(unknown_part);
        assert!(sizes.clone().all(|size| (MIN_PART..=MAX_PART).contains(&size)));
        assert!(sizes.clone().all(|size| size <= 128 << 20));
        assert!(sizes.sum::<u64>() >= 867 << 30);
        assert_eq!(unknown_part(1000), 8 << 20);
        assert_eq!(unknown_part(1001), 16 << 20);
    }
}
