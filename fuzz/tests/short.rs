//! Runs every target briefly, with the inputs in `corpus/` and with mutations of them.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may block, print and panic"
)]

use std::{
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use osproxy_fuzz::TARGETS;

/// How long mutations of a target are tried.
const LONG: Duration = Duration::from_millis(1500);
/// Longest mutation, in bytes.
const MAX: usize = 4096;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The inputs of a target in `corpus/`.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder("corpus").join(target)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Words of the target's syntax, from `words/`.
fn words(target: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(folder("words").join(target)).unwrap();
    let unquoted = text.lines().map(|line| line.strip_prefix('"').unwrap().strip_suffix('"').unwrap());
    unquoted.map(unescaped).collect()
}

/// Parses a word like libFuzzer: `\x` and two digits are a byte.
fn unescaped(word: &str) -> Vec<u8> {
    let mut pieces = word.split("\\x");
    let mut bytes = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    bytes
}

/// Prints the input if the target panics on it.
struct PrintOnPanic<'a>(&'a [u8]);

impl Drop for PrintOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with the input b\"{}\"", self.0.escape_ascii());
        }
    }
}

struct Random(u64);

impl Random {
    /// A random number below `end`; `end` must not be 0.
    fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }

    fn choose<'a>(&mut self, list: &'a [Vec<u8>]) -> &'a [u8] {
        &list[self.below(list.len())]
    }

    /// Replaces the first number at or after `start`, if there is one.
    fn renumber(&mut self, input: &mut Vec<u8>, start: usize) {
        let Some(start) = input[start..].iter().position(u8::is_ascii_digit).map(|at| start + at) else {
            return;
        };
        let digits = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = start + digits.min(20);
        let number: u128 = str::from_utf8(&input[start..end]).unwrap().parse().unwrap();
        let numbers =
            [number + 1, number.saturating_sub(1), number * 2, number * 1000, 0, 1 << 63, (1 << 64) - 1];
        let other = numbers[self.below(numbers.len())].to_string();
        input.splice(start..end, other.into_bytes());
    }

    /// Changes a random place of an input: a byte, a number, a word, or a piece of another input.
    fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[Vec<u8>]) {
        let start = self.below(input.len() + 1);
        let end = (start + self.below(9)).min(input.len());
        match self.below(7) {
            0 => drop(input.drain(start..end)),
            1 if start < end => input[start] ^= 1 << self.below(8),
            2 if start < end => input[start] = u8::try_from(self.below(256)).unwrap(),
            3 => drop(input.splice(start..end, self.choose(words).iter().copied())),
            4 => self.renumber(input, start),
            5 => {
                let repeated = input[start..end].to_vec();
                input.splice(start..start, repeated);
            }
            _ => {
                let other = self.choose(corpus);
                let from = self.below(other.len() + 1);
                let to = (from + self.below(40)).min(other.len());
                input.splice(start..end, other[from..to].iter().copied());
            }
        }
        input.truncate(MAX);
    }
}

fn run_briefly(target: &str) {
    let check = TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
    let (mut corpus, words) = (corpus(target), words(target));
    // The fastest inputs come first.
    corpus.sort_by_cached_key(|input| {
        let (_shown, begun) = (PrintOnPanic(input), Instant::now());
        check(input);
        begun.elapsed()
    });
    let mut random = Random(RandomState::new().hash_one(target));
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        // The smaller of two random numbers prefers the fastest inputs.
        let chosen = random.below(corpus.len()).min(random.below(corpus.len()));
        let mut input = corpus[chosen].clone();
        for _ in 0..=random.below(4) {
            random.mutate(&mut input, &corpus, &words);
        }
        let _shown = PrintOnPanic(&input);
        check(&input);
    }
}

/// Defines a test for each target, with its name.
macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run_briefly(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_its_test_its_corpus_and_its_words() {
            let names = TARGETS.map(|(name, _)| name);
            assert_eq!(names, [$(stringify!($name)),*]);
            for kept in ["corpus", "words"] {
                let entries = std::fs::read_dir(folder(kept)).unwrap();
                let mut found: Vec<_> =
                    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
                found.sort();
                assert_eq!(found, names, "{kept}");
            }
        }
    };
}

targets! { api_key config digest form forwarded key link range tus }
