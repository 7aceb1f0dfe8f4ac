//! Properties that osproxy's parsers have for any input. A target is a function that takes any
//! bytes and panics if a property does not hold.
//!
//! `just fuzz` searches for inputs that make a target panic, guided by coverage. The tests of this
//! crate briefly try the inputs in `corpus/` and mutations of them.

#![allow(
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    reason = "a target panics if a property does not hold"
)]

mod api_key;
mod config;
mod digest;
mod form;
mod forwarded;
mod key;
mod link;
mod range;
mod tus;

/// Takes any bytes; panics if a property does not hold for them.
pub type Check = fn(&[u8]);

/// All targets by name. Each has a folder in `corpus/` and a file in `words/` with its name.
pub const TARGETS: [(&str, Check); 9] = [
    ("api_key", api_key::check),
    ("config", config::check),
    ("digest", digest::check),
    ("form", form::check),
    ("forwarded", forwarded::check),
    ("key", key::check),
    ("link", link::check),
    ("range", range::check),
    ("tus", tus::check),
];

/// Returns the first lines of an input, and the rest.
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
