use osproxy_storage::{Digests, Wanted};

/// What a client says that digests are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// MD5.
    pub md5: Option<[u8; 16]>,
    /// SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// BLAKE3.
    pub blake3: Option<[u8; 32]>,
}

impl Claims {
    /// An MD5, if there is one, and nothing else: what API v0 knows.
    pub fn of_md5(md5: Option<[u8; 16]>) -> Self {
        Self { md5, ..Self::default() }
    }

    /// These, and where nothing is said, those.
    #[must_use]
    pub fn or(self, those: Self) -> Self {
        Self {
            md5: self.md5.or(those.md5),
            sha256: self.sha256.or(those.sha256),
            blake3: self.blake3.or(those.blake3),
        }
    }

    /// Whether something is said that BLAKE3, which is always computed, does not answer.
    pub fn need_reading(&self) -> bool {
        self.md5.is_some() || self.sha256.is_some()
    }

    /// What has to be computed to know whether they are true.
    pub fn wanted(&self) -> Wanted {
        Wanted { md5: self.md5.is_some(), sha256: self.sha256.is_some(), piece_at: None }
    }

    /// The first of them that is not true: its name, and what the digest is, in hexadecimal.
    pub fn refuted_by(&self, found: &Digests) -> Option<(&'static str, String)> {
        let differs = |claimed: Option<&[u8]>, found: Option<&[u8]>| match (claimed, found) {
            (Some(claimed), Some(found)) if claimed != found => Some(hex::encode(found)),
            _ => None,
        };
        let md5 = differs(slice(self.md5.as_ref()), slice(found.md5.as_ref()));
        let sha256 = differs(slice(self.sha256.as_ref()), slice(found.sha256.as_ref()));
        let blake3 = differs(slice(self.blake3.as_ref()), Some(&found.blake3));
        let named = |name, found: Option<String>| found.map(|found| (name, found));
        named("md5", md5).or_else(|| named("sha256", sha256)).or_else(|| named("blake3", blake3))
    }
}

fn slice<const N: usize>(digest: Option<&[u8; N]>) -> Option<&[u8]> {
    digest.map(|digest| &digest[..])
}
