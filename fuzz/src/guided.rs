//! Fuzzes one target with libFuzzer, guided by coverage. `just fuzz` builds and runs this program.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use osproxy_fuzz::{Check, TARGETS};

/// The target that the environment names. It is not an argument, because libFuzzer parses the
/// arguments.
static CHECK: LazyLock<Check> = LazyLock::new(|| {
    #[expect(clippy::disallowed_methods, reason = "this is not a setting of the service")]
    let wanted = std::env::var("OSPROXY_FUZZ_TARGET").expect("OSPROXY_FUZZ_TARGET names a target");
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.expect("OSPROXY_FUZZ_TARGET names one of the targets").1
});

fuzz_target!(|input: &[u8]| CHECK(input));
