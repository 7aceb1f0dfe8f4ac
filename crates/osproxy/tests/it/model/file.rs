//! What a file is, and which answers follow from that.

use std::{collections::BTreeMap, sync::Arc};

use osproxy_api::v0::UploadLinks;

use crate::support::md5_hex;

pub type Bytes = Arc<Vec<u8>>;

/// One uid.
pub struct File {
    pub uid: String,
    /// None of a file that came by instant upload.
    pub link: Option<UploadLinks>,
    pub state: State,
    /// A download link from when it was complete.
    pub url: Option<String>,
}

pub enum State {
    Pending(BTreeMap<u32, Bytes>),
    Complete(Complete),
    /// Its md5 was false. What was sent.
    Corrupt(Bytes),
    /// What it was.
    Deleted(Bytes),
}

pub struct Complete {
    pub bytes: Bytes,
    /// How many parts it was sent in; `None`: in one piece.
    pub parts: Option<u32>,
    /// What its client said the md5 is.
    pub claimed: Option<String>,
    /// Whether osproxy is known to have seen every byte.
    pub verified: bool,
}

/// What a client says when it completes an upload.
#[derive(Clone, Debug)]
pub struct Said {
    pub parts: u32,
    pub size: usize,
    pub md5: Option<String>,
}

/// Statuses that are right. More than one where the merge in the background makes the difference.
pub type Statuses = &'static [u16];

const OK: Statuses = &[200];
const REFUSED: Statuses = &[422];
const GONE: Statuses = &[404];
const OK_OR_GONE: Statuses = &[200, 404];
const REFUSED_OR_GONE: Statuses = &[422, 404];
const OK_OR_REFUSED: Statuses = &[200, 422];

impl Complete {
    pub fn whole(bytes: Bytes) -> Self {
        Self { bytes, parts: None, claimed: None, verified: true }
    }

    /// Whether the client lied: then it is found out sooner or later.
    pub fn is_false(&self) -> bool {
        self.claimed.as_ref().is_some_and(|claimed| *claimed != md5_hex(&self.bytes))
    }

    /// The md5 as a download link tells it.
    fn md5(&self) -> String {
        self.claimed.clone().unwrap_or_else(|| md5_hex(&self.bytes))
    }

    /// What is said of the md5 fits what is known of it.
    fn takes_md5(&self, said: &Said) -> Statuses {
        match &said.md5 {
            // Of what came whole, nothing but the md5 says that it is the same.
            None => {
                if self.parts.is_some() {
                    OK
                } else {
                    REFUSED
                }
            }
            Some(md5) if *md5 != self.md5() => REFUSED,
            // Nothing is known yet.
            Some(_) if self.claimed.is_none() && !self.verified => OK_OR_REFUSED,
            Some(_) => OK,
        }
    }

    fn merge(&self, said: &Said) -> Statuses {
        let parts = self.parts.unwrap_or(said.parts);
        if said.parts == 0 || said.parts != parts || said.size != self.bytes.len() {
            return REFUSED;
        }
        self.takes_md5(said)
    }

    fn single(&self, bytes: &Bytes, honest: bool) -> Statuses {
        if !honest || *bytes != self.bytes || self.is_false() {
            return REFUSED;
        }
        // Until it is merged, nobody knows whether it is the same.
        if self.verified { OK } else { OK_OR_REFUSED }
    }
}

/// The same, of a file that may turn out to be corrupt in this moment.
fn or_gone(statuses: Statuses, may_go: bool) -> Statuses {
    match statuses {
        _ if !may_go => statuses,
        OK => OK_OR_GONE,
        REFUSED => REFUSED_OR_GONE,
        _ => unreachable!("a false md5 was claimed, so it is known"),
    }
}

impl File {
    pub fn new(uid: String, link: Option<UploadLinks>, state: State) -> Self {
        Self { uid, link, state, url: None }
    }

    pub fn complete(&self) -> Option<&Complete> {
        match &self.state {
            State::Complete(complete) => Some(complete),
            _ => None,
        }
    }

    /// Its content, or what it would be or was.
    pub fn bytes(&self) -> Bytes {
        match &self.state {
            State::Pending(parts) => Arc::new(parts.values().flat_map(|part| part.iter().copied()).collect()),
            State::Complete(complete) => complete.bytes.clone(),
            State::Corrupt(bytes) | State::Deleted(bytes) => bytes.clone(),
        }
    }

    /// What a client that knows what it has sent says.
    pub fn truth(&self) -> Said {
        let bytes = self.bytes();
        let parts = match &self.state {
            State::Pending(parts) => parts.len(),
            State::Complete(Complete { parts: Some(parts), .. }) => *parts as usize,
            _ => 1,
        };
        let md5 = self.complete().map_or_else(|| md5_hex(&bytes), Complete::md5);
        Said { parts: u32::try_from(parts).unwrap(), size: bytes.len(), md5: Some(md5) }
    }

    /// The lowest number that no part has.
    pub fn next_number(&self) -> u32 {
        match &self.state {
            State::Pending(parts) => (1..=u32::MAX).find(|number| !parts.contains_key(number)).unwrap(),
            _ => 1,
        }
    }

    fn answer(
        &self,
        pending: impl FnOnce() -> Statuses,
        complete: impl FnOnce(&Complete) -> Statuses,
    ) -> Statuses {
        match &self.state {
            State::Pending(_) => pending(),
            State::Complete(file) => or_gone(complete(file), file.is_false()),
            State::Corrupt(_) | State::Deleted(_) => GONE,
        }
    }

    pub fn to_part(&self, honest: bool) -> Statuses {
        self.answer(|| if honest { OK } else { REFUSED }, |_| REFUSED)
    }

    pub fn to_single(&self, bytes: &Bytes, honest: bool) -> Statuses {
        self.answer(|| if honest { OK } else { REFUSED }, |complete| complete.single(bytes, honest))
    }

    pub fn to_merge(&self, said: &Said) -> Statuses {
        let pending = || {
            let truth = self.truth();
            let numbers_fit = truth.parts == said.parts && self.next_number() == said.parts + 1;
            if said.parts > 0 && numbers_fit && said.size == truth.size { OK } else { REFUSED }
        };
        self.answer(pending, |complete| complete.merge(said))
    }

    pub fn to_checkpoint(&self) -> Statuses {
        self.answer(|| OK, |_| OK)
    }

    pub fn to_read(&self) -> Statuses {
        self.answer(|| GONE, |_| OK)
    }

    /// The parts that a checkpoint tells. `None`: of a file that shares what another sent, anything.
    pub fn numbers(&self) -> Option<Vec<u32>> {
        self.link.as_ref()?;
        Some(match &self.state {
            State::Pending(parts) => parts.keys().copied().collect(),
            State::Complete(complete) => (1..=complete.parts.unwrap_or(0)).collect(),
            State::Corrupt(_) | State::Deleted(_) => Vec::new(),
        })
    }

    /// Takes in what an answer tells: what was not found is never found again.
    pub fn saw(&mut self, status: u16) {
        if status == 404
            && let State::Complete(complete) = &self.state
        {
            assert!(complete.is_false());
            self.state = State::Corrupt(complete.bytes.clone());
        }
    }
}
