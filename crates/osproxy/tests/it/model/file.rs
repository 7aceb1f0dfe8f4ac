//! The model of a file, and the answers it allows.

use std::{collections::BTreeMap, sync::Arc};

use osproxy_api::ErrorCode;

use super::client::Link;
use crate::support::md5_hex;

pub type Bytes = Arc<Vec<u8>>;

/// Part size of an upload with an announced size, in bytes; the last part may be shorter.
pub const PART: usize = 64 << 10;

/// The outcome of a request: an error with this code, or success.
pub type Outcome = Option<ErrorCode>;

/// Allowed outcomes. There is more than one where background work makes a difference.
pub type Outcomes = Vec<Outcome>;

/// The file of one uid.
pub struct File {
    pub uid: String,
    /// `None` for a file that was created by instant upload.
    pub link: Option<Link>,
    /// The announced size, if any.
    pub size: Option<usize>,
    /// Whether each part number was used at most once. Otherwise the outcome depends on what an
    /// earlier write of that part left behind, since a part may become an object of its own.
    pub is_plain: bool,
    pub state: State,
    /// A download link issued when the file was complete.
    pub url: Option<String>,
}

pub enum State {
    Pending(BTreeMap<u32, Bytes>),
    Complete(Complete),
    /// Its expected md5 was false. Holds the bytes that were sent.
    Corrupt(Bytes),
    /// Holds the bytes it had.
    Deleted(Bytes),
}

pub struct Complete {
    pub bytes: Bytes,
    /// The number of parts; `None` if it was sent whole.
    pub parts: Option<u32>,
    /// The expected md5 of the client.
    pub claimed: Option<String>,
    /// Whether osproxy is known to have verified every byte.
    pub verified: bool,
    /// Whether osproxy computes the md5 by then: API v1 does not ask for it.
    pub has_md5: bool,
}

/// The fields of a request that completes an upload.
#[derive(Clone, Debug, Default)]
pub struct CompleteFields {
    pub parts: Option<u32>,
    pub size: Option<usize>,
    pub md5: Option<String>,
}

fn done() -> Outcomes {
    vec![None]
}

fn refused(code: ErrorCode) -> Outcomes {
    vec![Some(code)]
}

fn checked(honest: bool) -> Outcomes {
    if honest { done() } else { refused(ErrorCode::DigestMismatch) }
}

fn done_or(code: ErrorCode) -> Outcomes {
    vec![None, Some(code)]
}

impl Complete {
    pub fn whole(bytes: Bytes, has_md5: bool) -> Self {
        Self { bytes, parts: None, claimed: None, verified: true, has_md5 }
    }

    /// Whether the expected md5 is false: the file is found corrupt sooner or later.
    pub fn is_false(&self) -> bool {
        self.claimed.as_ref().is_some_and(|claimed| *claimed != md5_hex(&self.bytes))
    }

    /// Whether an instant upload must find it.
    pub fn is_instant(&self) -> bool {
        self.verified && self.has_md5
    }

    /// The md5 that a download link shows.
    fn md5(&self) -> String {
        self.claimed.clone().unwrap_or_else(|| md5_hex(&self.bytes))
    }

    fn merge(&self, said: &CompleteFields) -> Outcomes {
        let other = || refused(ErrorCode::AlreadyStored);
        let number_fits = said.parts.is_none_or(|said| self.parts.is_none_or(|parts| parts == said));
        if !number_fits || said.size.is_some_and(|size| size != self.bytes.len()) {
            return other();
        }
        let is_other = match &said.md5 {
            // Only the md5 can show that content sent whole equals content sent in parts.
            None => self.parts.is_none() && said.parts.is_some(),
            Some(md5) => *md5 != self.md5(),
        };
        if is_other {
            other()
        } else if said.md5.is_some() && self.claimed.is_none() && !self.is_instant() {
            // The md5 may be known from another file with the same content.
            done_or(ErrorCode::AlreadyStored)
        } else {
            done()
        }
    }

    fn single(&self, bytes: &Bytes, md5: Option<&String>) -> Outcomes {
        let honest = md5.is_none_or(|md5| *md5 == md5_hex(bytes));
        let other = || refused(ErrorCode::AlreadyStored);
        if self.is_false() || bytes.len() > self.bytes.len() {
            return other();
        }
        let mut right = match md5 {
            // A known md5 is compared before the content arrives.
            Some(md5) if *md5 != md5_hex(&self.bytes) => {
                let mut right = other();
                if !honest && !self.is_instant() {
                    right.push(Some(ErrorCode::DigestMismatch));
                }
                return right;
            }
            _ if !honest => refused(ErrorCode::DigestMismatch),
            _ if *bytes != self.bytes => return other(),
            _ => done(),
        };
        if !self.verified {
            // Before it is verified, the content cannot be compared.
            right.push(Some(ErrorCode::AlreadyStored));
        }
        right
    }
}

impl File {
    pub fn new(link: Link, size: Option<usize>) -> Self {
        let state = State::Pending(BTreeMap::new());
        Self { uid: link.uid.clone(), link: Some(link), size, is_plain: true, state, url: None }
    }

    pub fn instant(uid: String, bytes: Bytes) -> Self {
        let state = State::Complete(Complete::whole(bytes, true));
        Self { uid, link: None, size: None, is_plain: true, state, url: None }
    }

    pub fn complete(&self) -> Option<&Complete> {
        match &self.state {
            State::Complete(complete) => Some(complete),
            _ => None,
        }
    }

    /// The parts of an upload that is not complete.
    pub fn pending(&self) -> Option<&BTreeMap<u32, Bytes>> {
        match &self.state {
            State::Pending(parts) => Some(parts),
            _ => None,
        }
    }

    /// Its present, future or former content.
    pub fn bytes(&self) -> Bytes {
        match &self.state {
            State::Pending(parts) => Arc::new(parts.values().flat_map(|part| part.iter().copied()).collect()),
            State::Complete(complete) => complete.bytes.clone(),
            State::Corrupt(bytes) | State::Deleted(bytes) => bytes.clone(),
        }
    }

    /// The announced number of parts, if any.
    fn announced(&self) -> Option<u32> {
        self.size.map(|size| u32::try_from(size.div_ceil(PART).max(1)).unwrap())
    }

    /// The announced length of a part, if any; 0 for a part beyond the end.
    pub fn length(&self, number: u32) -> Option<usize> {
        let start = PART * (number as usize - 1);
        self.size.map(|size| size.saturating_sub(start).min(PART))
    }

    /// The fields a correct client sends.
    pub fn true_fields(&self) -> CompleteFields {
        let bytes = self.bytes();
        let parts = match &self.state {
            State::Pending(parts) => parts.len(),
            State::Complete(Complete { parts: Some(parts), .. }) => *parts as usize,
            _ => 1,
        };
        let md5 = self.complete().map_or_else(|| md5_hex(&bytes), Complete::md5);
        CompleteFields { parts: Some(u32::try_from(parts).unwrap()), size: Some(bytes.len()), md5: Some(md5) }
    }

    /// The fields of a client that wants only the first part.
    pub fn first_part(&self) -> CompleteFields {
        let first = self.pending().and_then(|parts| parts.get(&1));
        let size = first.map_or(0, |part| part.len());
        CompleteFields { parts: Some(1), size: Some(size), md5: None }
    }

    /// The lowest free part number.
    pub fn next_number(&self) -> u32 {
        let free = |parts: &BTreeMap<u32, Bytes>| (1..=u32::MAX).find(|number| !parts.contains_key(number));
        self.pending().and_then(free).unwrap_or(1)
    }

    fn answer(
        &self,
        pending: impl FnOnce(&BTreeMap<u32, Bytes>) -> Outcomes,
        complete: impl FnOnce(&Complete) -> Outcomes,
    ) -> Outcomes {
        match &self.state {
            State::Pending(parts) => pending(parts),
            State::Complete(file) => {
                let mut right = complete(file);
                if file.is_false() {
                    // It may be found corrupt at any moment.
                    right.push(Some(ErrorCode::FileCorrupt));
                }
                right
            }
            State::Corrupt(_) => refused(ErrorCode::FileCorrupt),
            State::Deleted(_) => refused(ErrorCode::FileGone),
        }
    }

    pub fn to_part(&self, number: u32, bytes: &Bytes, honest: bool) -> Outcomes {
        let fits = self.announced().is_none_or(|parts| number <= parts)
            && self.length(number).is_none_or(|length| length == bytes.len());
        let pending = || if fits { checked(honest) } else { refused(ErrorCode::SizeMismatch) };
        self.answer(|_| pending(), |_| refused(ErrorCode::AlreadyStored))
    }

    pub fn to_single(&self, bytes: &Bytes, md5: Option<&String>) -> Outcomes {
        let fits = self.size.is_none_or(|size| size == bytes.len());
        let honest = md5.is_none_or(|md5| *md5 == md5_hex(bytes));
        let pending = || if fits { checked(honest) } else { refused(ErrorCode::SizeMismatch) };
        self.answer(|_| pending(), |complete| complete.single(bytes, md5))
    }

    /// With `verifies`, a false md5 is found before the answer.
    pub fn to_merge(&self, said: &CompleteFields, verifies: bool) -> Outcomes {
        if said.parts == Some(0) {
            return refused(ErrorCode::InvalidArgument);
        }
        let pending = |parts: &BTreeMap<u32, Bytes>| {
            let highest = parts.keys().last().copied().unwrap_or(1);
            let wanted = said.parts.max(self.announced()).unwrap_or(highest);
            if !parts.keys().copied().eq(1..=wanted) {
                return refused(ErrorCode::PartsMissing);
            }
            let size: usize = parts.values().map(|part| part.len()).sum();
            let fits = said.size.is_none_or(|said| said == size);
            if !fits {
                return refused(ErrorCode::SizeMismatch);
            }
            checked(!verifies || said.md5.as_ref().is_none_or(|md5| *md5 == md5_hex(&self.bytes())))
        };
        self.answer(pending, |complete| complete.merge(said))
    }

    pub fn to_abort(&self) -> Outcomes {
        self.answer(|_| done(), |_| refused(ErrorCode::AlreadyStored))
    }

    pub fn to_status(&self) -> Outcomes {
        self.answer(|_| done(), |_| done())
    }

    pub fn to_read(&self) -> Outcomes {
        self.answer(|_| refused(ErrorCode::NotStored), |_| done())
    }

    /// The parts that the state of the upload lists. `None` if any are allowed: the file shares
    /// content that another one sent.
    pub fn numbers(&self) -> Option<Vec<u32>> {
        self.link.as_ref()?;
        Some(match &self.state {
            State::Pending(parts) => parts.keys().copied().collect(),
            State::Complete(complete) => (1..=complete.parts.unwrap_or(0)).collect(),
            State::Corrupt(_) | State::Deleted(_) => Vec::new(),
        })
    }

    /// Updates the model after an answer: a corrupt file stays corrupt.
    pub fn observe(&mut self, outcome: Outcome) {
        if outcome == Some(ErrorCode::FileCorrupt)
            && let State::Complete(complete) = &self.state
        {
            assert!(complete.is_false());
            self.state = State::Corrupt(complete.bytes.clone());
        }
    }
}
