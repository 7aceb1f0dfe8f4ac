//! Digests that a client expects, and their comparison with computed digests.

use osproxy_storage::{DigestSelection, Digests};

/// Expected digests: what the client claims about content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectedDigests {
    /// Expected MD5.
    pub md5: Option<[u8; 16]>,
    /// Expected SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// Expected BLAKE3.
    pub blake3: Option<[u8; 32]>,
}

impl ExpectedDigests {
    /// Expects only the given MD5, if any. API v0 knows no other digest.
    pub fn md5_only(md5: Option<[u8; 16]>) -> Self {
        Self { md5, ..Self::default() }
    }

    /// Fills in missing digests from `fallback`.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        Self {
            md5: self.md5.or(fallback.md5),
            sha256: self.sha256.or(fallback.sha256),
            blake3: self.blake3.or(fallback.blake3),
        }
    }

    /// Whether an MD5 or SHA-256 is expected. To verify either, the whole content must be read. A
    /// BLAKE3 needs no such read if it can be combined from the subtree hashes of the parts.
    pub fn need_full_read(&self) -> bool {
        self.md5.is_some() || self.sha256.is_some()
    }

    /// Returns the digests to compute for verification.
    pub fn selection(&self) -> DigestSelection {
        DigestSelection { md5: self.md5.is_some(), sha256: self.sha256.is_some(), subtree_offset: None }
    }

    /// Returns the first digest that differs: its name, and the computed value in hexadecimal.
    /// Skips digests that were not computed.
    pub fn first_mismatch(&self, computed: &Digests) -> Option<(&'static str, String)> {
        let mismatch = |expected: Option<&[u8]>, computed: Option<&[u8]>| match (expected, computed) {
            (Some(expected), Some(computed)) if expected != computed => Some(hex::encode(computed)),
            _ => None,
        };
        let md5 = mismatch(slice(self.md5.as_ref()), slice(computed.md5.as_ref()));
        let sha256 = mismatch(slice(self.sha256.as_ref()), slice(computed.sha256.as_ref()));
        let blake3 = mismatch(slice(self.blake3.as_ref()), Some(&computed.blake3));
        let with_name = |name, computed: Option<String>| computed.map(|computed| (name, computed));
        with_name("md5", md5).or_else(|| with_name("sha256", sha256)).or_else(|| with_name("blake3", blake3))
    }
}

fn slice<const N: usize>(digest: Option<&[u8; N]>) -> Option<&[u8]> {
    digest.map(|digest| &digest[..])
}
