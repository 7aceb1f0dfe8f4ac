//! One target, whose inputs are looked for by what they reach: libFuzzer calls this. `just fuzz` builds and runs it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use osproxy_fuzz::{Check, TARGETS};

/// The target that is named in the environment: the arguments are libFuzzer's.
static CHECK: LazyLock<Check> = LazyLock::new(|| {
    #[expect(clippy::disallowed_methods, reason = "it is no setting of the service")]
    let wanted = std::env::var("OSPROXY_FUZZ_TARGET").expect("OSPROXY_FUZZ_TARGET names a target");
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.expect("OSPROXY_FUZZ_TARGET names one of the targets").1
});

fuzz_target!(|input: &[u8]| CHECK(input));
