//! Digests of content, computed while the content streams, or combined from subtree hashes.

use blake3::hazmat::{self, HasherExt, Mode};
use md5::{Digest as _, Md5};
use sha2::Sha256;

/// Length and digests of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Length in bytes.
    pub size: u64,
    /// MD5, if selected. Clients of API v0 compare it.
    pub md5: Option<[u8; 16]>,
    /// SHA-256, if selected. Some clients send it as an expected digest.
    pub sha256: Option<[u8; 32]>,
    /// BLAKE3, which deduplication relies on. If [`DigestSelection::subtree_offset`] was set, this
    /// is the subtree hash (a chaining value of BLAKE3), an input of [`combine_subtrees`].
    pub blake3: [u8; 32],
}

impl Digests {
    /// The selection that computes the same digests again, from the whole content.
    pub fn selection(&self) -> DigestSelection {
        DigestSelection { md5: self.md5.is_some(), sha256: self.sha256.is_some(), subtree_offset: None }
    }
}

/// Selects the digests that are computed in addition to BLAKE3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DigestSelection {
    /// Whether to compute MD5, which takes six times the CPU time of BLAKE3.
    pub md5: bool,
    /// Whether to compute SHA-256, which takes twice the CPU time of BLAKE3.
    pub sha256: bool,
    /// Set if the content is one subtree of larger content: the byte offset at which the subtree
    /// begins.
    pub subtree_offset: Option<u64>,
}

impl DigestSelection {
    /// Selects MD5, which API v0 needs.
    pub const MD5: Self = Self { md5: true, sha256: false, subtree_offset: None };
}

/// Computes [`Digests`] of a stream in one pass. Hashing with MD5 takes about 2.2 CPU seconds per
/// GiB, so it must not run on an async worker thread.
#[derive(Clone)]
pub struct Digester {
    size: u64,
    md5: Option<Md5>,
    sha256: Option<Sha256>,
    blake3: blake3::Hasher,
    is_subtree: bool,
}

impl Default for Digester {
    /// Creates a digester for MD5 and BLAKE3 of whole content, as API v0 needs.
    fn default() -> Self {
        Self::new(DigestSelection::MD5)
    }
}

impl Digester {
    /// Creates a digester. A subtree must begin at a multiple of the subtree size, which is a power
    /// of two and at least 1,024 bytes. Panics if the offset is not a multiple of 1,024.
    pub fn new(selection: DigestSelection) -> Self {
        let mut blake3 = blake3::Hasher::new();
        if let Some(offset) = selection.subtree_offset {
            blake3.set_input_offset(offset);
        }
        Self {
            size: 0,
            md5: selection.md5.then(Md5::new),
            sha256: selection.sha256.then(Sha256::new),
            blake3,
            is_subtree: selection.subtree_offset.is_some(),
        }
    }

    /// Hashes the next bytes. The caller ensures that a subtree does not exceed the subtree size.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        self.blake3.update(bytes);
    }

    /// The digests of all bytes so far.
    pub fn finish(self) -> Digests {
        Digests {
            size: self.size,
            md5: self.md5.map(|md5| md5.finalize().into()),
            sha256: self.sha256.map(|sha256| sha256.finalize().into()),
            blake3: if self.is_subtree {
                self.blake3.finalize_non_root()
            } else {
                self.blake3.finalize().into()
            },
        }
    }
}

/// Computes the BLAKE3 digest of `size` bytes of content from the hashes of its subtrees. Every
/// subtree has `subtree_size` bytes, except the last, which may be shorter.
///
/// Returns `None` if `subtree_size` is not a power of two of at least 1,024, if there are fewer
/// than two subtrees, or if their number does not match `size`.
pub fn combine_subtrees(subtrees: &[[u8; 32]], subtree_size: u64, size: u64) -> Option<[u8; 32]> {
    let fits = subtree_size.is_power_of_two()
        && subtree_size >= blake3::CHUNK_LEN as u64
        && subtrees.len() as u64 == size.div_ceil(subtree_size)
        && subtrees.len() > 1;
    if !fits {
        return None;
    }
    let (left, right) = root_children(subtrees, subtree_size, size)?;
    Some(hazmat::merge_subtrees_root(&left, &right, Mode::Hash).into())
}

/// The hashes of the left and the right child of the root of the tree over these subtrees.
fn root_children(subtrees: &[[u8; 32]], subtree_size: u64, size: u64) -> Option<([u8; 32], [u8; 32])> {
    let left_size = hazmat::left_subtree_len(size);
    let (left, right) = subtrees.split_at_checked(usize::try_from(left_size / subtree_size).ok()?)?;
    Some((subtree(left, subtree_size, left_size)?, subtree(right, subtree_size, size - left_size)?))
}

fn subtree(subtrees: &[[u8; 32]], subtree_size: u64, size: u64) -> Option<[u8; 32]> {
    if let [chunk] = subtrees {
        return Some(*chunk);
    }
    let (left, right) = root_children(subtrees, subtree_size, size)?;
    Some(hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digests_do_not_depend_on_the_chunks() {
        let mut subtrees = Digester::new(DigestSelection { md5: true, sha256: true, subtree_offset: None });
        for chunk in [&b""[..], b"a", b"b", b"c"] {
            subtrees.update(chunk);
        }
        let digests = subtrees.finish();
        assert_eq!(digests.size, 3);
        // The expected values are from RFC 1321, appendix A.5, and FIPS 180, appendix B.1.
        assert_eq!(digests.md5, Some(0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72_u128.to_be_bytes()));
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digests.sha256.map(hex::encode).as_deref(), Some(sha256));
        assert_eq!(digests.blake3, *blake3::hash(b"abc").as_bytes());
    }

    fn digest(bytes: &[u8], selection: DigestSelection) -> Digests {
        let mut digester = Digester::new(selection);
        digester.update(bytes);
        digester.finish()
    }

    fn subtrees_of(content: &[u8], subtree_size: usize) -> Vec<[u8; 32]> {
        let subtrees = content.chunks(subtree_size).enumerate();
        let of_one = |(number, chunk)| {
            digest(
                chunk,
                DigestSelection {
                    subtree_offset: Some((number * subtree_size) as u64),
                    ..DigestSelection::default()
                },
            )
            .blake3
        };
        subtrees.map(of_one).collect()
    }

    #[test]
    fn subtrees_combine_to_the_digest_of_the_whole() {
        for count in 2..=70_usize {
            for size in [count * 1024, count * 1024 - 1, (count - 1) * 1024 + 1] {
                let content: Vec<_> = (0..=250_u8).cycle().take(size).collect();
                let whole = *blake3::hash(&content).as_bytes();
                assert_eq!(
                    combine_subtrees(&subtrees_of(&content, 1024), 1024, size as u64),
                    Some(whole),
                    "{size}"
                );
            }
        }
    }

    #[test]
    fn subtrees_that_do_not_fit_the_size_are_not_combined() {
        let subtrees = [[1; 32]; 4];
        assert!(combine_subtrees(&subtrees, 1024, 4096).is_some());
        for (subtree_size, size) in [(1024, 4097), (1024, 3072), (1000, 4000), (512, 2048), (4096, 4096)] {
            assert_eq!(combine_subtrees(&subtrees, subtree_size, size), None, "{subtree_size} {size}");
        }
        assert_eq!(combine_subtrees(&subtrees[..1], 1024, 1024), None);
        assert_eq!(combine_subtrees(&[], 1024, 0), None);
    }

    proptest! {
        #[test]
        fn subtrees_of_any_size_combine(size in 2049..200_000_usize, exponent in 10..17_u32) {
            let subtree_size = 1_usize << exponent;
            prop_assume!(size > subtree_size);
            let content: Vec<_> = (0..=250_u8).cycle().take(size).collect();
            let combined = combine_subtrees(&subtrees_of(&content, subtree_size), subtree_size as u64, size as u64);
            prop_assert_eq!(combined, Some(*blake3::hash(&content).as_bytes()));
        }
    }
}
