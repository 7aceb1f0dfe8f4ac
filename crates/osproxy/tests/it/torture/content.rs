//! Content described by seeds, and what is known about it.

use std::collections::BTreeMap;

use osproxy_api::v0::UploadLinks;

use super::appends::Appending;
use crate::support::{Random, content, md5_hex};

/// Bytes derived from a seed: a range of its sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    seed: u64,
    of: usize,
    range: std::ops::Range<usize>,
}

impl Piece {
    pub fn new(seed: u64, size: usize) -> Self {
        Self { seed, of: size, range: 0..size }
    }

    /// Mostly small, so that much happens in a short time.
    pub fn random(random: &mut Random) -> Self {
        let size = match random.below(10) {
            0 => random.index(2),
            1..=7 => random.index(20_000),
            _ => random.index(300_000),
        };
        Self::new(random.below(u64::MAX), size)
    }

    pub fn size(&self) -> usize {
        self.range.len()
    }

    pub fn bytes(&self) -> Vec<u8> {
        content(self.seed, self.of)[self.range.clone()].to_vec()
    }

    /// Other bytes of the same length.
    pub fn other(&self, random: &mut Random) -> Self {
        Self::new(random.below(u64::MAX), self.size())
    }

    /// Content of several equal parts and a shorter last one. On a local disk, such parts are
    /// written at their place in one file.
    pub fn in_equal_parts(count: usize, random: &mut Random) -> Recipe {
        const PART: usize = 64 << 10;
        let size = (count - 1) * PART + 1 + random.index(PART);
        let whole = Self::new(random.below(u64::MAX), size);
        let piece = |start: usize| Self { range: start..size.min(start + PART), ..whole.clone() };
        (0..count).map(|part| piece(part * PART)).collect()
    }

    /// Cuts it into this many pieces of random sizes.
    pub fn cut(&self, count: usize, random: &mut Random) -> Recipe {
        let mut cuts: Vec<_> = (1..count).map(|_| random.index(self.size() + 1)).collect();
        cuts.extend([0, self.size()]);
        cuts.sort_unstable();
        let piece = |cut: &[usize]| Self { range: cut[0]..cut[1], ..self.clone() };
        cuts.windows(2).map(piece).collect()
    }
}

/// Concatenated pieces.
pub type Recipe = Vec<Piece>;

pub fn bytes_of(recipe: &[Piece]) -> Vec<u8> {
    recipe.iter().flat_map(Piece::bytes).collect()
}

/// What is known about a file that was sent.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Known {
    /// There was no answer.
    Nothing,
    /// It was acknowledged, or read.
    Stored,
    /// osproxy had verified all of it before it acknowledged it.
    Verified,
    /// It was found to be corrupt.
    Corrupt,
}

/// A file that was sent whole, or declared complete.
pub struct Sent {
    pub uid: String,
    /// Its possible contents: more than one while the outcome is unknown.
    pub candidates: Vec<Recipe>,
    pub known: Known,
    /// Whether its expected md5 is false: then it may disappear at any time.
    pub is_false: bool,
    /// A request that must succeed when it is repeated: URL and content.
    pub retry: Option<(String, Recipe)>,
}

impl Sent {
    pub fn new(uid: &str, recipe: Recipe) -> Self {
        Self {
            uid: uid.to_owned(),
            candidates: vec![recipe],
            known: Known::Nothing,
            is_false: false,
            retry: None,
        }
    }

    /// A file that is known to be stored.
    pub fn known(uid: &str, recipe: Recipe, known: Known) -> Self {
        Self { known, ..Self::new(uid, recipe) }
    }

    pub fn is_known_stored(&self) -> bool {
        self.known != Known::Nothing
    }

    /// Records that it is stored.
    pub fn mark_stored(&mut self) {
        if !self.is_known_stored() {
            self.known = Known::Stored;
        }
    }

    /// Compares bytes with the possible contents. From then on, only the one that was read is
    /// possible.
    pub fn check(&mut self, read: &[u8]) {
        assert!(self.known != Known::Corrupt, "{} was corrupt, but is available again", self.uid);
        let found = self.candidates.iter().position(|recipe| bytes_of(recipe) == read);
        let found = found.unwrap_or_else(|| panic!("{} has {} unknown bytes", self.uid, read.len()));
        self.candidates = vec![self.candidates.swap_remove(found)];
        self.mark_stored();
    }

    /// Records that it was not found.
    pub fn check_gone(&mut self) {
        assert!(self.is_false, "{} was acknowledged, but is missing", self.uid);
        self.known = Known::Corrupt;
    }
}

/// A part: its possible contents, newest last, and whether one was acknowledged. All have the same
/// size.
#[derive(Default)]
pub struct Part {
    pub candidates: Recipe,
    pub acknowledged: bool,
}

/// An upload in parts that is not complete.
pub struct Upload {
    pub link: UploadLinks,
    pub parts: BTreeMap<u32, Part>,
}

impl Upload {
    pub fn new(link: UploadLinks) -> Self {
        Self { link, parts: BTreeMap::new() }
    }

    /// Records that a part is about to be sent, and returns its URL.
    pub fn record_sending(&mut self, number: u32, piece: &Piece) -> String {
        self.parts.entry(number).or_default().candidates.push(piece.clone());
        let md5 = md5_hex(&piece.bytes());
        format!("{}&chunkNum={number}&md5={md5}", self.link.url.multi.upload)
    }

    /// Records that the part sent last is stored. No earlier request for it may still be in
    /// progress.
    pub fn record_acknowledged(&mut self, number: u32) {
        let part = self.parts.get_mut(&number).unwrap();
        part.candidates.drain(..part.candidates.len() - 1);
        part.acknowledged = true;
    }

    pub fn recipe(&self) -> Recipe {
        self.parts.values().map(|part| part.candidates[0].clone()).collect()
    }

    /// The URL that declares it complete, with this md5.
    pub fn merge_url(&self, md5: Option<&str>) -> String {
        let size: usize = self.recipe().iter().map(Piece::size).sum();
        let md5 = md5.map(|md5| format!("&md5={md5}")).unwrap_or_default();
        format!("{}&num={}&size={size}{md5}", self.link.url.multi.merge, self.parts.len())
    }
}

/// Everything that one client, or all of them, sent.
#[derive(Default)]
pub struct Ledger {
    pub sent: Vec<Sent>,
    pub uploads: Vec<Upload>,
    /// Incomplete uploads over tus.
    pub appends: Vec<Appending>,
}
