//! Uploads compared with a model: for any sequence of operations, over either version of the API,
//! each answer must be one that the model allows.

mod client;
mod file;
mod ops;

use std::sync::Arc;

use osproxy_api::{ErrorCode, v1::UploadState};
use proptest::{prelude::*, sample::Index, test_runner::Config};

use crate::support::{TestNode, eventually, md5_hex};
use client::{Answer, Link, Status, Version, checkpoint, is_open, read_status};
use file::{Bytes, Complete, CompleteFields, File, Outcomes, PART, State};
use ops::{Md5, Op, Range, Source, WrongFields, op};

/// Different bytes, of the same length if possible.
fn others(bytes: &Bytes) -> Bytes {
    if bytes.is_empty() { Arc::new(vec![0]) } else { Arc::new(bytes.iter().map(|byte| !byte).collect()) }
}

fn announced(md5: Md5, bytes: &Bytes) -> Option<String> {
    match md5 {
        Md5::Right => Some(md5_hex(bytes)),
        Md5::False => Some(md5_hex(&others(bytes))),
        Md5::None => None,
    }
}

struct World {
    node: TestNode,
    /// False digests are found before the answer, not by a task.
    verifies: bool,
    files: Vec<File>,
    last_part: Option<(usize, u32, Bytes, Md5)>,
    held: bool,
}

impl World {
    async fn start(verifies: bool) -> Self {
        let node = TestNode::start_verifying(if verifies { u64::MAX } else { 0 }).await;
        let mut world = Self { node, verifies, files: Vec::new(), last_part: None, held: false };
        world.create(None).await;
        world
    }

    /// Creates an upload, preallocated if its size is announced.
    async fn create(&mut self, size: Option<usize>) -> usize {
        let link = match size {
            Some(size) => Link::create_sized(&self.node, size).await,
            None => Link::create(&self.node).await,
        };
        self.files.push(File::new(link, size));
        self.files.len() - 1
    }

    /// Chooses any file.
    fn any(&self, index: Index) -> usize {
        index.index(self.files.len())
    }

    /// Chooses a file with an upload link; the first one has one.
    fn linked(&self, index: Index) -> usize {
        (0..=self.any(index)).rev().find(|at| self.files[*at].link.is_some()).unwrap()
    }

    fn link(&self, at: usize) -> &Link {
        self.files[at].link.as_ref().unwrap()
    }

    fn content(&self, source: &Source) -> Bytes {
        match source {
            Source::Piece(piece) => piece.bytes(),
            Source::Same(file) => self.files[self.any(*file)].bytes(),
            Source::Claimed(file) => others(&self.files[self.any(*file)].bytes()),
        }
    }

    /// Compares an answer with the allowed outcomes. Returns `None` if it is an error.
    fn check(&mut self, at: usize, what: &str, answer: Answer, right: &Outcomes) -> Option<Answer> {
        let (uid, found) = (&self.files[at].uid, answer.outcome(right));
        let Some(outcome) = found else {
            panic!("{what} of {uid}: {} {:?}, expected {right:?}", answer.status(), answer.error_code());
        };
        self.files[at].observe(outcome);
        outcome.is_none().then_some(answer)
    }

    async fn part(&mut self, by: Version, at: usize, number: u32, bytes: &Bytes, md5: Md5) {
        self.last_part = Some((at, number, bytes.clone(), md5));
        let said = announced(md5, bytes);
        let answer = self.link(at).put_part(&self.node, by, number, said.as_deref(), bytes).await;
        let file = &mut self.files[at];
        let right = file.to_part(number, bytes, md5 != Md5::False);
        file.is_plain &= md5 != Md5::False && file.pending().is_none_or(|parts| !parts.contains_key(&number));
        if self.check(at, "a part", answer, &right).is_some()
            && let State::Pending(parts) = &mut self.files[at].state
        {
            parts.insert(number, bytes.clone());
        }
    }

    async fn single(&mut self, by: Version, at: usize, bytes: Bytes, md5: Md5) {
        let said = announced(md5, &bytes);
        let answer = self.link(at).put_content(&self.node, by, said.as_deref(), &bytes).await;
        let right = self.files[at].to_single(&bytes, said.as_ref());
        if self.check(at, "the whole file", answer, &right).is_some()
            && let State::Pending(_) = self.files[at].state
        {
            let has_md5 = by == Version::V0 || said.is_some();
            self.files[at].state = State::Complete(Complete::whole(bytes, has_md5));
        }
    }

    async fn merge(&mut self, by: Version, at: usize, lie: WrongFields) {
        let truth = self.files[at].true_fields();
        let said = match lie {
            WrongFields::Nothing => truth,
            WrongFields::Number(more) => {
                let parts = truth.parts.map(|parts| parts.saturating_add_signed(more));
                CompleteFields { parts, ..truth }
            }
            WrongFields::Size => CompleteFields { size: truth.size.map(|size| size + 1), ..truth },
            WrongFields::Prefix => self.files[at].first_part(),
            WrongFields::Md5(md5) => CompleteFields { md5: announced(md5, &self.files[at].bytes()), ..truth },
            WrongFields::Omitted if by == Version::V1 => CompleteFields::default(),
            WrongFields::Omitted => CompleteFields { md5: None, ..truth },
        };
        let answer = self.link(at).complete(&self.node, by, &said).await;
        let right = self.files[at].to_merge(&said, self.verifies);
        if right == [Some(ErrorCode::DigestMismatch)] {
            self.check(at, &format!("merging ({said:?})"), answer, &right);
            // A preallocated file cannot be read before it is complete, and it is the file's only
            // object.
            let sql = format!("SELECT state FROM files WHERE uid = {}", self.files[at].uid);
            let state = self.node.database().sql(&sql).await.remove(0);
            match self.files[at].size {
                Some(size) if size > 0 => {
                    assert_eq!(state, "corrupt");
                    self.files[at].state = State::Corrupt(self.files[at].bytes());
                }
                _ => assert_eq!(state, "receiving"),
            }
        } else if self.check(at, &format!("merging ({said:?})"), answer, &right).is_some()
            && let Some(parts) = self.files[at].pending()
        {
            let (bytes, parts) = (self.files[at].bytes(), u32::try_from(parts.len()).unwrap());
            let file = &self.files[at];
            // Parts of a preallocated file are in place, with their digests: no task is needed
            // unless another file has the same content.
            let is_placed = file.size.is_some_and(|size| size > 0) && file.is_plain && said.md5.is_none();
            let is_first = !self.files.iter().filter_map(File::complete).any(|other| other.bytes == bytes);
            let (verified, has_md5) = (is_placed && is_first, file.size.is_none() || said.md5.is_some());
            let complete = Complete { bytes, parts: Some(parts), claimed: said.md5, verified, has_md5 };
            self.files[at].state = State::Complete(complete);
        }
    }

    async fn copy(
        &mut self,
        by: Version,
        of: usize,
        parts: Option<usize>,
        backwards: bool,
        lie: WrongFields,
    ) {
        let bytes = self.files[of].bytes();
        let at = self.create(parts.is_none().then_some(bytes.len())).await;
        let length = parts.map_or(PART, |parts| bytes.len().div_ceil(parts).max(1));
        let mut parts: Vec<_> = (1..).zip(bytes.chunks(length)).collect();
        if backwards {
            parts.reverse();
        }
        for (number, part) in parts {
            let by = if number % 2 == 0 { by } else { by.other() };
            self.part(by, at, number, &Arc::new(part.to_vec()), Md5::Right).await;
        }
        self.merge(by, at, lie).await;
    }

    async fn abort(&mut self, at: usize) {
        let answer = self.link(at).abort(&self.node).await;
        let right = self.files[at].to_abort();
        if self.check(at, "giving up", answer, &right).is_some() {
            self.files[at].state = State::Deleted(self.files[at].bytes());
        }
    }

    async fn status(&mut self, by: Version, at: usize) {
        let answer = match (by, &self.files[at].link) {
            (Version::V1, Some(link)) => link.get_status(&self.node).await,
            _ => checkpoint(&self.node, &self.files[at].uid).await,
        };
        let right = self.files[at].to_status();
        let Some(answer) = self.check(at, "the status", answer, &right) else {
            return;
        };
        let (status, file) = (read_status(answer).await, &self.files[at]);
        assert!(file.numbers().is_none_or(|numbers| numbers == status.numbers()), "{}", file.uid);
        if let Status::All(status) = status {
            let bytes = file.bytes().len();
            assert_eq!((&status.uid, status.received), (&file.uid, bytes as u64));
            assert_eq!(status.part_size, file.size.map(|_| PART as u64), "{}", file.uid);
            let size = if file.complete().is_some() { Some(bytes) } else { file.size };
            assert_eq!(status.size, size.map(|size| size as u64), "{}", file.uid);
            let is_right = match file.pending() {
                Some(parts) => is_open(status.state, parts.len()),
                None => status.state == UploadState::Stored,
            };
            assert!(is_right, "{} has the state {:?}", file.uid, status.state);
        }
    }

    async fn read(&mut self, at: usize) {
        let link = self.node.download_link(&self.files[at].uid).await;
        let right = self.files[at].to_read();
        assert!(right.iter().any(|outcome| outcome.is_none() == link.is_some()), "{}", self.files[at].uid);
        let Some(url) = link.map(|link| link.url).or_else(|| self.files[at].url.clone()) else {
            return;
        };
        let answer = Answer::new(Version::V0, 200, self.node.get(&url).await);
        let right = self.files[at].to_read();
        if let Some(answer) = self.check(at, "the content", answer, &right) {
            let bytes = answer.response.bytes().await.unwrap();
            assert!(bytes == *self.files[at].bytes(), "{}", self.files[at].uid);
        }
        self.files[at].url = Some(url);
    }

    async fn read_range(&mut self, at: usize, range: Range) {
        let Some(url) = self.files[at].url.clone() else {
            return;
        };
        let bytes = self.files[at].bytes();
        let size = bytes.len();
        let (field, expected) = match range {
            Range::From(..) | Range::Suffix(_) if size == 0 => ("bytes=0-".to_owned(), None),
            Range::From(from, to) => {
                let (one, other) = (from.index(size), to.index(size));
                let (first, last) = (one.min(other), one.max(other));
                (format!("bytes={first}-{last}"), Some(first..last + 1))
            }
            Range::Suffix(count) => {
                let start = size.saturating_sub(usize::try_from(count).unwrap());
                (format!("bytes=-{count}"), Some(start..size).filter(|range| !range.is_empty()))
            }
            Range::Beyond(distance) => (format!("bytes={}-", size as u64 + distance), None),
        };
        let answer =
            self.node.client().get(self.node.url(&url)).header("range", &field).send().await.unwrap();
        // For the model a satisfiable range is a success like any other.
        let success = if expected.is_some() { 206 } else { 416 };
        let answer = Answer::new(Version::V0, success, answer);
        let right = self.files[at].to_read();
        if let Some(answer) = self.check(at, &field, answer, &right)
            && let Some(range) = expected
        {
            let found = answer.response.bytes().await.unwrap();
            assert!(found == bytes[range], "{field} of {}", self.files[at].uid);
        }
    }

    async fn instant(&mut self, bytes: Bytes) {
        let uid = self.node.instant_upload(&[(&md5_hex(&bytes), "y.bin")]).await.remove(0).uid;
        let complete = self.files.iter().filter_map(File::complete);
        let mut same = complete.filter(|file| file.bytes == bytes && !file.is_false()).peekable();
        if uid.is_empty() {
            assert!(!same.any(Complete::is_instant), "verified content was not found");
            return;
        }
        assert!(same.peek().is_some(), "instant upload found content that no file has");
        self.files.push(File::instant(uid, bytes));
        self.read(self.files.len() - 1).await;
    }

    async fn delete(&mut self, at: usize) {
        self.node.delete(&self.files[at].uid).await;
        let file = &mut self.files[at];
        file.state = State::Deleted(file.bytes());
        self.read(at).await;
    }

    async fn release(&mut self) {
        if std::mem::take(&mut self.held) {
            self.node.database().release_merges().await;
        }
    }

    /// Waits until the content of a file is one object with its digests, or is found to be corrupt.
    async fn await_merge(&mut self, at: usize) {
        if self.files[at].complete().is_none() {
            return;
        }
        self.release().await;
        let sql = format!(
            "SELECT CASE WHEN files.state = 'stored' AND blake3 IS NULL THEN 'parts' \
             ELSE coalesce(layout, files.state) END FROM files LEFT JOIN blobs ON blob_id = id WHERE uid = {}",
            self.files[at].uid
        );
        let merged = eventually("the parts are merged", async || {
            let found = self.node.database().sql(&sql).await.remove(0);
            (found != "parts").then_some(found)
        })
        .await;
        let State::Complete(complete) = &mut self.files[at].state else { unreachable!() };
        assert_eq!(merged, if complete.is_false() { "corrupt" } else { "whole" });
        complete.verified = true;
        if complete.is_false() {
            self.files[at].observe(Some(ErrorCode::FileCorrupt));
        }
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Create => _ = self.create(None).await,
            Op::Divide(size) => _ = self.create(Some(size)).await,
            Op::Part { by, file, number, piece, fits, md5 } => {
                let at = self.linked(file);
                let number = number.unwrap_or_else(|| self.files[at].next_number());
                let length = self.files[at].length(number).filter(|_| fits);
                let bytes = length.map_or_else(|| piece.bytes(), |length| piece.sized(length));
                self.part(by, at, number, &bytes, md5).await;
            }
            Op::PartAgain(by) => {
                if let Some((at, number, bytes, md5)) = self.last_part.clone() {
                    self.part(by, at, number, &bytes, md5).await;
                }
            }
            Op::Merge { by, file, lie } => self.merge(by, self.linked(file), lie).await,
            Op::Single { by, file, source, fits, md5 } => {
                let (at, mut bytes) = (self.linked(file), self.content(&source));
                if let Some(size) =
                    self.files[at].size.filter(|size| fits && (*size == 0 || !bytes.is_empty()))
                {
                    bytes = Arc::new(bytes.iter().copied().cycle().take(size).collect());
                }
                self.single(by, at, bytes, md5).await;
            }
            Op::Copy { by, of, parts, backwards, lie } => {
                self.copy(by, self.any(of), parts, backwards, lie).await;
            }
            Op::Abort(file) => self.abort(self.linked(file)).await,
            Op::Status(by, file) => self.status(by, self.any(file)).await,
            Op::Read(file) => self.read(self.any(file)).await,
            Op::Range(file, range) => self.read_range(self.any(file), range).await,
            Op::Instant(source) => self.instant(self.content(&source)).await,
            Op::Delete(file) => self.delete(self.any(file)).await,
            Op::HoldMerges if self.held => {}
            Op::HoldMerges => {
                self.node.database().hold_merges().await;
                self.held = true;
            }
            Op::ReleaseMerges => self.release().await,
            Op::AwaitMerge(file) => self.await_merge(self.any(file)).await,
            Op::Restart { abort } => self.node.restart(abort).await,
        }
    }

    /// Once all background work has finished, the service must have exactly what the model has.
    async fn finish(mut self) {
        self.release().await;
        // A file sent both in parts and whole leaves orphans, which a start sweeps.
        self.node.restart(false).await;
        self.node.database().wait_until_idle().await;
        for at in 0..self.files.len() {
            self.await_merge(at).await;
            self.status(Version::V0, at).await;
            self.status(Version::V1, at).await;
            self.read(at).await;
        }
        let mut contents: Vec<_> =
            self.files.iter().filter_map(|file| Some(&file.complete()?.bytes)).collect();
        contents.sort();
        contents.dedup();
        let blobs = self.node.database().sql("SELECT count(*) FROM blobs WHERE state = 'stored'").await;
        assert_eq!(blobs, [contents.len().to_string()], "not one blob per content");
        self.node.assert_consistent().await;
    }
}

#[test]
fn uploads_are_what_a_map_says() {
    let cases = std::env::var("PROPTEST_CASES").map_or(12, |cases| cases.parse().unwrap());
    let config = Config {
        cases,
        max_shrink_iters: 200,
        max_shrink_time: 60_000,
        source_file: Some(file!()),
        ..Config::default()
    };
    proptest!(config, |(verifies in any::<bool>(), ops in prop::collection::vec(op(), 1..=40))| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut world = World::start(verifies).await;
            for op in ops {
                world.run(op).await;
            }
            world.finish().await;
        });
    });
}
