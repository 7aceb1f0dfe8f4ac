//! Uploads against a map: whatever is asked in whatever order, each answer is the one that the map gives.

mod file;

use std::sync::Arc;

use osproxy_api::v0::{Envelope, UploadLinks};
use proptest::{prelude::*, sample::Index, test_runner::Config};

use crate::support::{TestNode, content, eventually, md5_hex};
use file::{Bytes, Complete, File, Said, State, Statuses};

/// A content out of few, so that the same comes again.
#[derive(Clone, Copy, Debug)]
struct Piece {
    seed: u64,
    size: usize,
}

impl Piece {
    fn bytes(self) -> Bytes {
        Arc::new(content(self.seed, self.size))
    }
}

/// Content of a whole file. Files are named by any number, which wraps.
#[derive(Clone, Debug)]
enum Source {
    Piece(Piece),
    /// What that file has or had, or would have if it were complete now.
    Same(Index),
    /// What that file has not, although its client may have said so.
    Claimed(Index),
}

/// What a client says of an md5.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Md5 {
    Right,
    False,
    None,
}

/// What a client says wrongly when it completes an upload.
#[derive(Clone, Copy, Debug)]
enum Lie {
    Nothing,
    Number,
    Size,
    Md5(Md5),
}

#[derive(Clone, Copy, Debug)]
enum Range {
    From(Index, Index),
    Suffix(u64),
    Beyond(u64),
}

#[derive(Clone, Debug)]
enum Op {
    Create,
    Part {
        file: Index,
        number: Option<u32>,
        piece: Piece,
        md5: Md5,
    },
    PartAgain,
    Merge {
        file: Index,
        lie: Lie,
    },
    Single {
        file: Index,
        source: Source,
        md5: Md5,
    },
    /// Sends the content of a file once more, under a new uid, in parts of another size.
    Copy {
        of: Index,
        parts: usize,
        lie: Lie,
    },
    Checkpoint(Index),
    Read(Index),
    Range(Index, Range),
    Instant(Source),
    Delete(Index),
    HoldMerges,
    ReleaseMerges,
    AwaitMerge(Index),
    Restart {
        abort: bool,
    },
}

fn piece() -> impl Strategy<Value = Piece> {
    let sizes = prop::sample::select(vec![0, 1, 5_000, 65_537, 200_000]);
    (0..3_u64, sizes).prop_map(|(seed, size)| Piece { seed, size })
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        1 => piece().prop_map(Source::Piece),
        3 => any::<Index>().prop_map(Source::Same),
        1 => any::<Index>().prop_map(Source::Claimed),
    ]
}

fn md5() -> impl Strategy<Value = Md5> {
    prop_oneof![4 => Just(Md5::Right), 1 => Just(Md5::False), 2 => Just(Md5::None)]
}

fn lie() -> impl Strategy<Value = Lie> {
    prop_oneof![
        6 => Just(Lie::Nothing),
        1 => Just(Lie::Number),
        1 => Just(Lie::Size),
        2 => Just(Lie::Md5(Md5::False)),
        2 => Just(Lie::Md5(Md5::None)),
    ]
}

fn range() -> impl Strategy<Value = Range> {
    prop_oneof![
        4 => any::<(Index, Index)>().prop_map(|(from, to)| Range::From(from, to)),
        1 => (0..300_000_u64).prop_map(Range::Suffix),
        1 => (0..3_u64).prop_map(Range::Beyond),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let file = any::<Index>;
    let number = prop_oneof![5 => Just(None), 2 => (1..=6_u32).prop_map(Some)];
    prop_oneof![
        3 => Just(Op::Create),
        12 => (file(), number, piece(), md5()).prop_map(|(file, number, piece, md5)| Op::Part { file, number, piece, md5 }),
        2 => Just(Op::PartAgain),
        8 => (file(), lie()).prop_map(|(file, lie)| Op::Merge { file, lie }),
        3 => (file(), source(), md5()).prop_map(|(file, source, md5)| Op::Single { file, source, md5 }),
        5 => (file(), 1..5_usize, lie()).prop_map(|(of, parts, lie)| Op::Copy { of, parts, lie }),
        3 => file().prop_map(Op::Checkpoint),
        3 => file().prop_map(Op::Read),
        4 => (file(), range()).prop_map(|(file, range)| Op::Range(file, range)),
        5 => source().prop_map(Op::Instant),
        4 => file().prop_map(Op::Delete),
        1 => Just(Op::HoldMerges),
        1 => Just(Op::ReleaseMerges),
        2 => file().prop_map(Op::AwaitMerge),
        2 => any::<bool>().prop_map(|abort| Op::Restart { abort }),
    ]
}

/// Other bytes, of the same length if there are any.
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
    files: Vec<File>,
    last_part: Option<(usize, u32, Bytes, Md5)>,
    held: bool,
}

impl World {
    async fn start() -> Self {
        let mut world =
            Self { node: TestNode::start().await, files: Vec::new(), last_part: None, held: false };
        world.create().await;
        world
    }

    async fn create(&mut self) -> usize {
        let link = self.node.upload_link("x.bin").await;
        self.files.push(File::new(link.uid.clone(), Some(link), State::Pending([].into())));
        self.files.len() - 1
    }

    /// Any file.
    fn any(&self, index: Index) -> usize {
        index.index(self.files.len())
    }

    /// A file that has a link for uploads: the first one has.
    fn linked(&self, index: Index) -> (usize, &UploadLinks) {
        let at = (0..=self.any(index)).rev().find(|at| self.files[*at].link.is_some()).unwrap();
        (at, self.files[at].link.as_ref().unwrap())
    }

    fn content(&self, source: &Source) -> Bytes {
        match source {
            Source::Piece(piece) => piece.bytes(),
            Source::Same(file) => self.files[self.any(*file)].bytes(),
            Source::Claimed(file) => others(&self.files[self.any(*file)].bytes()),
        }
    }

    /// Holds an answer against the statuses that are right.
    fn check(&mut self, at: usize, what: &str, status: u16, right: Statuses) -> bool {
        assert!(right.contains(&status), "{what} of {}: {status} instead of {right:?}", self.files[at].uid);
        self.files[at].saw(status);
        status == 200
    }

    async fn put(&self, url: &str, md5: Option<&String>, bytes: &Bytes) -> u16 {
        let md5 = md5.map(|md5| format!("&md5={md5}")).unwrap_or_default();
        self.node.put(&format!("{url}{md5}"), bytes).await.status().as_u16()
    }

    async fn part(&mut self, at: usize, number: u32, bytes: &Bytes, md5: Md5) {
        self.last_part = Some((at, number, bytes.clone(), md5));
        let url = &self.files[at].link.as_ref().unwrap().url.multi.upload;
        let url = format!("{url}&chunkNum={number}");
        let status = self.put(&url, announced(md5, bytes).as_ref(), bytes).await;
        let right = self.files[at].to_part(md5 != Md5::False);
        if self.check(at, "a part", status, right)
            && let State::Pending(parts) = &mut self.files[at].state
        {
            parts.insert(number, bytes.clone());
        }
    }

    async fn single(&mut self, at: usize, bytes: Bytes, md5: Md5) {
        let url = &self.files[at].link.as_ref().unwrap().url.single;
        let status = self.put(url, announced(md5, &bytes).as_ref(), &bytes).await;
        let right = self.files[at].to_single(&bytes, md5 != Md5::False);
        if self.check(at, "the whole file", status, right)
            && let State::Pending(_) = self.files[at].state
        {
            self.files[at].state = State::Complete(Complete::whole(bytes));
        }
    }

    async fn merge(&mut self, at: usize, lie: Lie) {
        let truth = self.files[at].truth();
        let said = match lie {
            Lie::Nothing => truth,
            Lie::Number => Said { parts: truth.parts + 1, ..truth },
            Lie::Size => Said { size: truth.size + 1, ..truth },
            Lie::Md5(md5) => Said { md5: announced(md5, &self.files[at].bytes()), ..truth },
        };
        let Said { parts, size, md5 } = said.clone();
        let url = &self.files[at].link.as_ref().unwrap().url.multi.merge;
        let status = self.put(&format!("{url}&num={parts}&size={size}"), md5.as_ref(), &Arc::default()).await;
        let right = self.files[at].to_merge(&said);
        if self.check(at, &format!("merging ({said:?})"), status, right)
            && let State::Pending(_) = self.files[at].state
        {
            let bytes = self.files[at].bytes();
            let complete = Complete { bytes, parts: Some(parts), claimed: md5, verified: false };
            self.files[at].state = State::Complete(complete);
        }
    }

    async fn copy(&mut self, of: usize, parts: usize, lie: Lie) {
        let bytes = self.files[of].bytes();
        let at = self.create().await;
        for (number, part) in (1..).zip(bytes.chunks(bytes.len().div_ceil(parts).max(1))) {
            self.part(at, number, &Arc::new(part.to_vec()), Md5::Right).await;
        }
        self.merge(at, lie).await;
    }

    async fn checkpoint(&mut self, at: usize) {
        let answer = self.node.get(&format!("/api/storage/v0/checkpoint?uid={}", self.files[at].uid)).await;
        let right = self.files[at].to_checkpoint();
        if self.check(at, "the checkpoint", answer.status().as_u16(), right) {
            let numbers = answer.json::<Envelope<Vec<u32>>>().await.unwrap().data;
            assert_eq!(
                numbers,
                self.files[at].numbers().unwrap_or_else(|| numbers.clone()),
                "{}",
                self.files[at].uid
            );
        }
    }

    async fn read(&mut self, at: usize) {
        let link = self.node.download_link(&self.files[at].uid).await;
        let right = self.files[at].to_read();
        self.check(at, "a link", if link.is_some() { 200 } else { 404 }, right);
        let Some(url) = link.map(|link| link.url).or_else(|| self.files[at].url.clone()) else {
            return;
        };
        let answer = self.node.get(&url).await;
        let right = self.files[at].to_read();
        if self.check(at, "the content", answer.status().as_u16(), right) {
            assert!(answer.bytes().await.unwrap() == *self.files[at].bytes(), "{}", self.files[at].uid);
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
        // For the model a range that is there is a success like any other.
        let right_of_range = if expected.is_some() { 206 } else { 416 };
        let status = answer.status().as_u16();
        let status = if status == right_of_range { 200 } else { status };
        let right = self.files[at].to_read();
        if self.check(at, &field, status, right)
            && let Some(range) = expected
        {
            assert!(answer.bytes().await.unwrap() == bytes[range], "{field} of {}", self.files[at].uid);
        }
    }

    async fn instant(&mut self, bytes: Bytes) {
        let uid = self.node.instant_upload(&[(&md5_hex(&bytes), "y.bin")]).await.remove(0).uid;
        let complete = self.files.iter().filter_map(File::complete);
        let mut same = complete.filter(|file| file.bytes == bytes && !file.is_false()).peekable();
        if uid.is_empty() {
            assert!(!same.any(|file| file.verified), "verified content was not found");
            return;
        }
        assert!(same.peek().is_some(), "content was found that no file has");
        self.files.push(File::new(uid, None, State::Complete(Complete::whole(bytes))));
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

    /// Waits until what a file lies in is one object, or until it is found to be corrupt.
    async fn await_merge(&mut self, at: usize) {
        if self.files[at].complete().is_none() {
            return;
        }
        self.release().await;
        let sql = format!(
            "SELECT coalesce(layout, files.state) FROM files LEFT JOIN blobs ON blob_id = id WHERE uid = {}",
            self.files[at].uid
        );
        let merged = eventually("it is merged", async || {
            let found = self.node.database().sql(&sql).await.remove(0);
            (found != "parts").then_some(found)
        })
        .await;
        let State::Complete(complete) = &mut self.files[at].state else { unreachable!() };
        assert_eq!(merged, if complete.is_false() { "corrupt" } else { "whole" });
        complete.verified = true;
        if complete.is_false() {
            self.files[at].saw(404);
        }
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Create => _ = self.create().await,
            Op::Part { file, number, piece, md5 } => {
                let (at, _) = self.linked(file);
                let number = number.unwrap_or_else(|| self.files[at].next_number());
                self.part(at, number, &piece.bytes(), md5).await;
            }
            Op::PartAgain => {
                if let Some((at, number, bytes, md5)) = self.last_part.clone() {
                    self.part(at, number, &bytes, md5).await;
                }
            }
            Op::Merge { file, lie } => self.merge(self.linked(file).0, lie).await,
            Op::Single { file, source, md5 } => {
                self.single(self.linked(file).0, self.content(&source), md5).await;
            }
            Op::Copy { of, parts, lie } => self.copy(self.any(of), parts, lie).await,
            Op::Checkpoint(file) => self.checkpoint(self.any(file)).await,
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

    /// When everything has come to its end, what is there is what the model has, and nothing else.
    async fn finish(mut self) {
        self.release().await;
        // What a file left that was sent in parts and then in one piece is swept at a start.
        self.node.restart(false).await;
        self.node.database().settle().await;
        for at in 0..self.files.len() {
            self.await_merge(at).await;
            self.checkpoint(at).await;
            self.read(at).await;
        }
        let mut contents: Vec<_> =
            self.files.iter().filter_map(|file| Some(&file.complete()?.bytes)).collect();
        contents.sort();
        contents.dedup();
        let blobs = self.node.database().sql("SELECT count(*) FROM blobs WHERE state = 'stored'").await;
        assert_eq!(blobs, [contents.len().to_string()], "each content is there once");
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
    proptest!(config, |(ops in prop::collection::vec(op(), 1..=40))| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut world = World::start().await;
            for op in ops {
                world.run(op).await;
            }
            world.finish().await;
        });
    });
}
