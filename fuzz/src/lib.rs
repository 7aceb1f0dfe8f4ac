//! What holds for whatever the parsers of osproxy are given. A target is a function that takes any bytes and panics when
//! something does not hold.
//!
//! `just fuzz` looks for such bytes by what they reach; the tests of this crate try what is kept in `corpus/`, and mutations of
//! it, for a moment.

#![allow(
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    reason = "to panic is how a target says that something does not hold"
)]

mod api_key;
mod config;
mod digest;
mod form;
mod forwarded;
mod key;
mod link;
mod range;

/// Takes any bytes; panics when something does not hold for them.
pub type Check = fn(&[u8]);

/// All targets, by name. One has a folder of its name in `corpus/`, and a file in `words/`.
pub const TARGETS: [(&str, Check); 8] = [
    ("api_key", api_key::check),
    ("config", config::check),
    ("digest", digest::check),
    ("form", form::check),
    ("forwarded", forwarded::check),
    ("key", key::check),
    ("link", link::check),
    ("range", range::check),
];

/// The first lines of an input, and what is left behind them.
fn lines<const N: usize>(input: &[u8]) -> ([&str; N], &[u8]) {
    let mut rest = input;
    let lines = std::array::from_fn(|_| {
        let (line, behind) = match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = behind;
        str::from_utf8(line).unwrap_or_default()
    });
    (lines, rest)
}
