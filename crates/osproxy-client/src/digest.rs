//! The BLAKE3 of content from the hashes of its parts, which are computed in any order.

use base64::{Engine, engine::general_purpose::STANDARD};
use blake3::hazmat::{self, Mode};

/// Value of `Content-Digest` and `Repr-Digest` with one digest.
pub(crate) fn header(algorithm: &str, digest: &[u8; 32]) -> String {
    format!("{algorithm}=:{}:", STANDARD.encode(digest))
}

/// The BLAKE3 of `size` bytes from the hashes of at least two subtrees. Each has `part_size` bytes,
/// a power of two, except the last. `None` if the number of subtrees does not fit.
pub(crate) fn combine(subtrees: &[[u8; 32]], part_size: u64, size: u64) -> Option<[u8; 32]> {
    let fits = part_size.is_power_of_two()
        && part_size >= blake3::CHUNK_LEN as u64
        && subtrees.len() > 1
        && subtrees.len() as u64 == size.div_ceil(part_size);
    let (left, right) = fits.then(|| children(subtrees, part_size, size))??;
    Some(hazmat::merge_subtrees_root(&left, &right, Mode::Hash).into())
}

fn children(subtrees: &[[u8; 32]], part_size: u64, size: u64) -> Option<([u8; 32], [u8; 32])> {
    let left_size = hazmat::left_subtree_len(size);
    let (left, right) = subtrees.split_at_checked(usize::try_from(left_size / part_size).ok()?)?;
    Some((subtree(left, part_size, left_size)?, subtree(right, part_size, size - left_size)?))
}

fn subtree(subtrees: &[[u8; 32]], part_size: u64, size: u64) -> Option<[u8; 32]> {
    if let [hash] = subtrees {
        return Some(*hash);
    }
    let (left, right) = children(subtrees, part_size, size)?;
    Some(hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash))
}

#[cfg(test)]
mod tests {
    use blake3::hazmat::HasherExt;

    use super::*;

    #[test]
    fn the_hashes_of_parts_give_that_of_the_content() {
        let content: Vec<u8> = (0..70_001_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for size in [1025, 2048, 5000, 65_536, 70_001] {
            let content = &content[..size];
            let hash = |(number, part): (u64, &[u8])| {
                let mut hasher = blake3::Hasher::new();
                hasher.set_input_offset(number * 1024).update(part).finalize_non_root()
            };
            let subtrees: Vec<_> = (0..).zip(content.chunks(1024)).map(hash).collect();
            assert_eq!(combine(&subtrees, 1024, size as u64), Some(blake3::hash(content).into()), "{size}");
        }
        assert_eq!(combine(&[[0; 32]; 2], 1024, 5000), None);
        assert_eq!(combine(&[[0; 32]; 2], 1000, 2000), None);
    }
}
