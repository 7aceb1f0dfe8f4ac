//! Random operations.

use std::sync::Arc;

use proptest::{prelude::*, sample::Index};

use super::{client::Version, file::Bytes};
use crate::support::content;

/// One of few contents, so that content repeats.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub seed: u64,
    pub size: usize,
}

impl Piece {
    pub fn bytes(self) -> Bytes {
        self.sized(self.size)
    }

    /// The same, with another length.
    pub fn sized(self, size: usize) -> Bytes {
        Arc::new(content(self.seed, size))
    }
}

/// The content of a whole file. An index may be any number; it wraps.
#[derive(Clone, Debug)]
pub enum Source {
    Piece(Piece),
    /// The content that this file has, had, or would have if it were completed now.
    Same(Index),
    /// The content that this file does not have, although its client may have claimed it.
    Claimed(Index),
}

/// The expected md5 of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Md5 {
    Right,
    False,
    None,
}

/// What a client declares wrongly, or omits, when it completes an upload.
#[derive(Clone, Copy, Debug)]
pub enum WrongFields {
    Nothing,
    Number(i32),
    Size,
    /// Declares the first part to be all of the content.
    Prefix,
    Md5(Md5),
    /// Declares nothing, where the API version allows it.
    Omitted,
}

#[derive(Clone, Copy, Debug)]
pub enum Range {
    From(Index, Index),
    Suffix(u64),
    Beyond(u64),
}

#[derive(Clone, Debug)]
pub enum Op {
    Create,
    /// An upload with an announced size, in parts of 64 KiB.
    Divide(usize),
    Part {
        by: Version,
        file: Index,
        number: Option<u32>,
        piece: Piece,
        /// With an announced size: the part has its required length, whatever the piece is.
        fits: bool,
        md5: Md5,
    },
    PartAgain(Version),
    Merge {
        by: Version,
        file: Index,
        lie: WrongFields,
    },
    Single {
        by: Version,
        file: Index,
        source: Source,
        fits: bool,
        md5: Md5,
    },
    /// Sends the content of a file again under a new uid: in this many parts, or with an announced
    /// size. One API version sends the odd parts, the other the even ones.
    Copy {
        by: Version,
        of: Index,
        parts: Option<usize>,
        backwards: bool,
        lie: WrongFields,
    },
    Abort(Index),
    Status(Version, Index),
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

fn size() -> impl Strategy<Value = usize> {
    // Parts of 64 KiB and a multiple of it get their place in one file.
    prop::sample::select(vec![0, 1, 5_000, 65_536, 65_537, 131_072, 200_000])
}

fn piece() -> impl Strategy<Value = Piece> {
    (0..3_u64, size()).prop_map(|(seed, size)| Piece { seed, size })
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

fn lie() -> impl Strategy<Value = WrongFields> {
    prop_oneof![
        6 => Just(WrongFields::Nothing),
        2 => Just(WrongFields::Number(1)),
        1 => Just(WrongFields::Number(-1)),
        1 => Just(WrongFields::Size),
        1 => Just(WrongFields::Prefix),
        2 => Just(WrongFields::Md5(Md5::False)),
        2 => Just(WrongFields::Md5(Md5::None)),
        3 => Just(WrongFields::Omitted),
    ]
}

fn range() -> impl Strategy<Value = Range> {
    prop_oneof![
        4 => any::<(Index, Index)>().prop_map(|(from, to)| Range::From(from, to)),
        1 => (0..300_000_u64).prop_map(Range::Suffix),
        1 => (0..3_u64).prop_map(Range::Beyond),
    ]
}

fn by() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V0), Just(Version::V1)]
}

fn fits() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.85)
}

fn part() -> impl Strategy<Value = Op> {
    let number = prop_oneof![5 => Just(None), 2 => (1..=6_u32).prop_map(Some)];
    (by(), any::<Index>(), number, piece(), fits(), md5())
        .prop_map(|(by, file, number, piece, fits, md5)| Op::Part { by, file, number, piece, fits, md5 })
}

fn single() -> impl Strategy<Value = Op> {
    (by(), any::<Index>(), source(), fits(), md5()).prop_map(|(by, file, source, fits, md5)| Op::Single {
        by,
        file,
        source,
        fits,
        md5,
    })
}

fn copy() -> impl Strategy<Value = Op> {
    let parts = prop_oneof![(1..5_usize).prop_map(Some), Just(None)];
    (by(), any::<Index>(), parts, any::<bool>(), lie()).prop_map(|(by, of, parts, backwards, lie)| Op::Copy {
        by,
        of,
        parts,
        backwards,
        lie,
    })
}

pub fn op() -> impl Strategy<Value = Op> {
    let file = any::<Index>;
    prop_oneof![
        2 => Just(Op::Create),
        3 => size().prop_map(Op::Divide),
        14 => part(),
        2 => by().prop_map(Op::PartAgain),
        8 => (by(), file(), lie()).prop_map(|(by, file, lie)| Op::Merge { by, file, lie }),
        3 => single(),
        6 => copy(),
        1 => file().prop_map(Op::Abort),
        4 => (by(), file()).prop_map(|(by, file)| Op::Status(by, file)),
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
