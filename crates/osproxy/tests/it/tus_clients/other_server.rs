//! The checks of `tus_conformance` against a server that others wrote: `@tus/server`. If a check
//! required more than the protocol does, that server would fail it.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{LONG, programs, variable};
use crate::{support::Api, tus_conformance::Target};

/// Requirements that `@tus/server` 2.4 does not meet, and what it does. If this list changes, either
/// the server or a check has.
const NOT_MET: [(&str, &str); 6] = [
    // It has no checksums, which are optional.
    ("options_announce_the_protocol", "no extension checksum"),
    // Servers should answer with 415.
    ("a_body_of_another_type_is_refused", "400 instead of [415]"),
    // Servers must send the versions that they support. (To another version, it answers with 400.)
    ("another_version_is_refused_with_the_right_one", "no tus-version"),
    // Without checksums, it ignores the header.
    ("a_checksum_that_does_not_match_discards_the_body", "204 instead of [460]"),
    ("an_unknown_checksum_is_a_bad_request", "204 instead of [400]"),
    // Servers must use the method in the header.
    ("a_method_can_be_overridden", "400 instead of [204]"),
];

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn the_checks_require_what_another_server_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new("node")
        .arg(programs().join("server.mjs"))
        .arg(folder.path())
        .env("TUS_MODULES", variable("OSPROXY_TEST_NPM"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(LONG, lines.next_line()).await.expect("the server does not start");
    let address = line.unwrap().expect("the server has ended").parse().unwrap();
    let api = Api::new(address);
    let target = Target { client: api.client().clone(), endpoint: api.url("/files") };
    let findings = target.findings().await;
    let found: Vec<_> = findings.iter().map(|(name, finding)| (*name, finding.as_str())).collect();
    assert_eq!(found, NOT_MET);
}
